
// Views, keys and colours.

const source = openSource();
const episodes = new Episodes(source);

function view(name) {
  for (const one of ['overview', 'episodes']) $(`view-${one}`).hidden = one !== name;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.dataset.view === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

function route() {
  const hash = location.hash.slice(1);
  const episode = /^episode=(\d+)$/.exec(hash);
  const prompt = /^compare=(.+)$/.exec(hash);
  document.title = episode ? `Episode ${episode[1]} · rco-node` : 'rco-node';
  const isOverview = source.isLive && !episode && !prompt && hash !== 'episodes';
  view(isOverview ? 'overview' : 'episodes');
  if (isOverview) {
    episodes.open = null;
    return;
  }
  if (!episodes.rows.length) episodes.refresh();
  if (episode) episodes.show(Number(episode[1]));
  else if (prompt) episodes.versus(decodeURIComponent(prompt[1]));
  else episodes.close();
}

/** The three settings of the colours, in the order of the button. */
const THEMES = { auto: 'Auto', light: 'Light', dark: 'Dark' };

function paint(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $('theme').textContent = THEMES[theme];
  $('theme').setAttribute('aria-label', `Colours: ${theme === 'auto' ? 'as the system' : theme}`);
}

/** A file opened from disk may have no storage. */
function stored(name, value) {
  try {
    if (value !== undefined) localStorage.setItem(name, value);
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

let theme = Object.hasOwn(THEMES, stored('theme') ?? '') ? stored('theme') : 'auto';
paint(theme);
$('theme').addEventListener('click', () => {
  const names = Object.keys(THEMES);
  theme = names[(names.indexOf(theme) + 1) % names.length];
  stored('theme', theme);
  paint(theme);
});
$('help').addEventListener('click', () => $('help-dialog').showModal());
$('skip').addEventListener('click', (event) => {
  event.preventDefault();
  $('main').focus();
});

const keys = {
  j: () => episodes.move(1),
  k: () => episodes.move(-1),
  l: () => { looks.logProbs = !looks.logProbs; episodes.again?.(); },
  d: () => { looks.diff = !looks.diff; episodes.again?.(); },
  c: () => { if (episodes.open !== null) episodes.compare?.(); },
  '?': () => $('help-dialog').showModal(),
  '/': () => {
    if ($('view-episodes').hidden || $('list-pane').offsetParent === null) location.hash = 'episodes';
    // The view is shown once the address has changed.
    setTimeout(() => $('filter').text.focus());
  },
  Escape: () => {
    if (!$('view-episodes').hidden && $('view-episodes').classList.contains('open')) location.hash = 'episodes';
  },
};

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const field = event.target.closest('input, select, textarea');
  if (field) {
    if (event.key === 'Escape') {
      // Browsers would empty the field, too.
      event.preventDefault();
      field.blur();
    }
    return;
  }
  if (['j', 'k', 'l', 'd', 'c'].includes(event.key) && $('view-episodes').hidden) return;
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

window.addEventListener('hashchange', route);
if (source.isLive) {
  const overview = new Overview(source);
  overview.start();
  overview.every(5000, () => episodes.watch());
} else {
  const about = JSON.parse($('about').textContent);
  $('views').hidden = true;
  overviewless(about);
}
route();

/** A file shows episodes alone. */
function overviewless(about) {
  document.querySelector('.brand').setAttribute('href', '#episodes');
  document.querySelector('.lamp').hidden = true;
  $('state-text').textContent = `episodes of ${about}`;
}
