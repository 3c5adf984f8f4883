//! Source files as tokens: what each one imports, which names it uses, how long its functions are.
//!
//! Comments, doc comments and `#[cfg(test)]` items are not code here. Macro bodies are.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A path of names, such as `["engine", "sampler"]`.
pub type Names = Vec<String>;

/// One file under `src`.
pub struct Source {
    /// Its path below `src`, such as `engine/sampler.rs`.
    pub file: String,
    /// Its text, tests included.
    pub text: String,
    /// Its text up to the tests at its end.
    pub code: String,
    /// Its module; empty for `lib.rs`.
    pub module: Names,
    /// What it imports.
    pub imports: Vec<Import>,
    /// Paths of two names or more outside of imports, as written.
    pub paths: Vec<Names>,
    /// Every name outside of imports.
    pub names: BTreeSet<String>,
    /// Functions with their lines, from `fn` to the closing brace.
    pub functions: Vec<(String, usize)>,
}

/// One name that a `use` brings in.
pub struct Import {
    /// The path, as written.
    pub path: Names,
    /// The name it has in the file.
    pub name: String,
    /// Whether the file hands it on: `pub use`, `pub(crate) use`.
    pub is_reexport: bool,
}

/// Every file under `src` that holds no tests alone.
pub fn read_all(root: &Path) -> Vec<Source> {
    let src = root.join("src");
    let mut found = vec![];
    for path in rust_files(&src) {
        let file = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        let is_tests = file.ends_with("tests.rs") || file.contains("/tests/");
        if file != "main.rs" && !is_tests {
            found.push(Source::read(&path, file));
        }
    }
    found
}

/// All `.rs` files below `folder`, sorted.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

impl Source {
    fn read(path: &Path, file: String) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        Self::parse(file, text)
    }

    /// Parses `text` as the file `file`.
    pub fn parse(file: String, text: String) -> Self {
        let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let module = match file.as_str() {
            "lib.rs" => vec![],
            name => name.trim_end_matches(".rs").split('/').map(str::to_owned).collect(),
        };
        // At the margin, `#[cfg(test)]` begins the tests, and they end the file.
        let code = text.split("\n#[cfg(test)]").next().unwrap().to_owned();
        let (imports, paths, names, functions) = Default::default();
        let mut source = Self { file, text, code, module, imports, paths, names, functions };
        source.walk(stream);
        source
    }

    /// The room it belongs to.
    pub fn room(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    fn walk(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Punct(punct) if punct.as_char() == '#' => self.attribute(&tokens, at),
                TokenTree::Ident(ident) if ident == "use" && !is_precise_capture(&tokens, at) => {
                    self.import(&tokens, at)
                }
                TokenTree::Ident(ident) => {
                    if ident == "fn" {
                        self.function(&tokens, at);
                    }
                    self.path(&tokens, at)
                }
                TokenTree::Group(group) => {
                    self.walk(group.stream());
                    at + 1
                }
                _ => at + 1,
            };
        }
    }

    /// Passes over an attribute; over the whole item where it is for tests alone.
    fn attribute(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let inner = usize::from(matches!(tokens.get(at + 1), Some(TokenTree::Punct(bang)) if bang.as_char() == '!'));
        let Some(TokenTree::Group(group)) = tokens.get(at + 1 + inner) else { return at + 1 };
        if group.stream().to_string().replace(' ', "") != "cfg(test)" {
            return at + 2 + inner;
        }
        let ends = |token: &TokenTree| match token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(punct) => punct.as_char() == ';',
            _ => false,
        };
        let rest = &tokens[at + 2..];
        rest.iter().position(ends).map_or(tokens.len(), |end| at + 2 + end + 1)
    }

    fn import(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let is_end = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';');
        let end = at + tokens[at..].iter().position(is_end).expect("an import ends");
        let before = &tokens[..at];
        let is_pub = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Ident(ident)) if ident == "pub");
        let is_reexport = is_pub(before.last()) || is_pub(before.len().checked_sub(2).map(|index| &before[index]));
        for (path, name) in import_tree(&tokens[at + 1..end], &[]) {
            self.imports.push(Import { path, name, is_reexport });
        }
        end + 1
    }

    fn function(&mut self, tokens: &[TokenTree], at: usize) {
        let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else { return };
        for token in &tokens[at + 2..] {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ';' => return,
                TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => {
                    let first = tokens[at].span().start().line;
                    self.functions.push((name.to_string(), lines(first, body)));
                    return;
                }
                _ => {}
            }
        }
    }

    /// Reads the path that begins at an identifier; where it goes on.
    fn path(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let mut path = vec![tokens[at].to_string()];
        let mut next = at + 1;
        while let (Some(TokenTree::Punct(one)), Some(TokenTree::Punct(two)), Some(TokenTree::Ident(name))) =
            (tokens.get(next), tokens.get(next + 1), tokens.get(next + 2))
            && one.as_char() == ':'
            && two.as_char() == ':'
        {
            path.push(name.to_string());
            next += 3;
        }
        self.names.extend(path.iter().cloned());
        let is_field = at > 0 && matches!(&tokens[at - 1], TokenTree::Punct(punct) if punct.as_char() == '.');
        if path.len() > 1 && !is_field {
            self.paths.push(path);
        }
        next
    }
}

/// `impl Trait + use<'a>`.
fn is_precise_capture(tokens: &[TokenTree], at: usize) -> bool {
    matches!(tokens.get(at + 1), Some(TokenTree::Punct(punct)) if punct.as_char() == '<')
}

fn lines(first: usize, body: &Group) -> usize {
    body.span_close().end().line - first + 1
}

/// The paths of a `use` tree behind `prefix`, each with the name it gets.
fn import_tree(tokens: &[TokenTree], prefix: &[String]) -> Vec<(Names, String)> {
    let mut path = prefix.to_vec();
    let mut alias = None;
    let mut tokens = tokens.iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) if ident == "as" => alias = tokens.next().map(ToString::to_string),
            TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {}
            TokenTree::Ident(ident) => path.push(ident.to_string()),
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
                let branches = inner.split(is_comma).filter(|branch| !branch.is_empty());
                return branches.flat_map(|branch| import_tree(branch, &path)).collect();
            }
            _ => {}
        }
    }
    let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
    vec![(path, name)]
}

/// Which file defines what: modules by their names, and the names that they hand on.
pub struct House<'a> {
    files: BTreeMap<&'a [String], &'a Source>,
    reexports: BTreeMap<(&'a [String], &'a str), Names>,
}

impl<'a> House<'a> {
    /// The house of all `sources`.
    pub fn new(sources: &'a [Source]) -> Self {
        let files: BTreeMap<_, _> = sources.iter().map(|source| (source.module.as_slice(), source)).collect();
        let mut house = Self { files, reexports: BTreeMap::new() };
        for source in sources {
            for import in source.imports.iter().filter(|import| import.is_reexport) {
                if let Some(path) = house.absolute(source, &import.path) {
                    house.reexports.insert((&source.module, &import.name), path);
                }
            }
        }
        house
    }

    /// The files that `source` depends on: those that define what it names. A re-export is a door: it counts for the
    /// file that has it only where that file uses the name itself.
    pub fn dependencies(&self, source: &'a Source) -> BTreeSet<&'a str> {
        let used = |import: &&Import| !import.is_reexport || source.names.contains(&import.name);
        let imported = source.imports.iter().filter(used).map(|import| &import.path);
        let named = imported.chain(&source.paths).filter_map(|path| self.absolute(source, path));
        let files = named.filter_map(|path| self.defining(&path, 0)).map(|file| file.file.as_str());
        files.filter(|file| *file != source.file).collect()
    }

    /// Names of `path` below the crate's root; none where it leads elsewhere.
    fn absolute(&self, source: &Source, path: &[String]) -> Option<Names> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&source.module, rest].concat()),
            "super" => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                let base = source.module.len().checked_sub(ups)?;
                Some([&source.module[..base], &path[ups..]].concat())
            }
            child => {
                let child = [source.module.as_slice(), &[child.to_owned()]].concat();
                self.files.contains_key(child.as_slice()).then(|| [&source.module, path].concat())
            }
        }
    }

    /// The file that defines the last name of `path`, through re-exports.
    fn defining(&self, path: &[String], depth: usize) -> Option<&'a Source> {
        let of_file = |len: &usize| self.files.contains_key(&path[..*len]);
        let len = (1..=path.len()).rev().find(of_file)?;
        if let Some(name) = path.get(len)
            && let Some(target) = self.reexports.get(&(&path[..len], name.as_str()))
            && depth < 8
        {
            return self.defining(&[target.as_slice(), &path[len + 1..]].concat(), depth + 1);
        }
        self.files.get(&path[..len]).copied()
    }
}

/// Groups of more than one node that reach each other, by Tarjan's algorithm (SIAM J. Comput. 1, 1972).
pub fn circles<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    struct Search<'s, 'a> {
        edges: &'s BTreeMap<&'a str, BTreeSet<&'a str>>,
        order: BTreeMap<&'a str, usize>,
        low: BTreeMap<&'a str, usize>,
        open: Vec<&'a str>,
        circles: Vec<Vec<&'a str>>,
    }
    impl<'a> Search<'_, 'a> {
        fn visit(&mut self, node: &'a str) {
            let index = self.order.len();
            self.order.insert(node, index);
            self.low.insert(node, index);
            self.open.push(node);
            for &next in self.edges.get(node).into_iter().flatten() {
                if !self.order.contains_key(next) {
                    self.visit(next);
                    let low = self.low[node].min(self.low[next]);
                    self.low.insert(node, low);
                } else if self.open.contains(&next) {
                    let low = self.low[node].min(self.order[next]);
                    self.low.insert(node, low);
                }
            }
            if self.low[node] == self.order[node] {
                let first = self.open.iter().position(|open| *open == node).expect("it is open");
                let group = self.open.split_off(first);
                if group.len() > 1 {
                    self.circles.push(group);
                }
            }
        }
    }
    let mut search = Search { edges, order: BTreeMap::new(), low: BTreeMap::new(), open: vec![], circles: vec![] };
    for &node in edges.keys() {
        if !search.order.contains_key(node) {
            search.visit(node);
        }
    }
    search.circles
}
