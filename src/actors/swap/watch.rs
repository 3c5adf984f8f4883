//! The watched folder: what appears in it whole is offered, once.

use super::{SwapError, SwapMsg};
use crate::checkpoint;
use ractor::ActorRef;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;

/// The pause between two looks. What has not changed from one look to the next is whole.
const LOOK: Duration = Duration::from_secs(2);
/// Entries of the folder that are looked at.
const ENTRIES_MAX: usize = 1024;

/// Names, sizes and times of the files of a folder.
type Listing = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// Offers what appears in `folder` until the actor is gone. What is there at the start is not offered.
pub(super) async fn watch(folder: PathBuf, swap: ActorRef<SwapMsg>) {
    let mut seen: BTreeMap<PathBuf, (Listing, bool)> = BTreeMap::new();
    let mut is_first = true;
    loop {
        let look = folder.clone();
        // A look that failed, as of a folder that does not exist yet, finds nothing.
        let found = tokio::task::spawn_blocking(move || offers(&look)).await.unwrap_or_default();
        seen.retain(|path, _| found.contains_key(path));
        for (path, listing) in found {
            let (before, offered) = seen.entry(path.clone()).or_insert((Listing::new(), is_first));
            if *before != listing {
                (*before, *offered) = (listing, is_first);
            } else if !*offered {
                let (reply, answer) = oneshot::channel();
                if swap.send_message(SwapMsg::Found { path, reply }).is_err() {
                    return;
                }
                // What finds another on trial, or a critic pinned, is offered again.
                *offered = !matches!(answer.await, Ok(Err(SwapError::Busy(_) | SwapError::Pinned(_))));
            }
        }
        is_first = false;
        tokio::time::sleep(LOOK).await;
    }
}

/// The folders in `folder` that look like critics, with what is in each.
fn offers(folder: &Path) -> BTreeMap<PathBuf, Listing> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES_MAX);
    let folders = entries.map(|entry| entry.path()).filter(|path| checkpoint::is_offer(path));
    folders.map(|path| (path.clone(), listing(&path))).collect()
}

/// What is in `folder` and in its folders.
fn listing(folder: &Path) -> Listing {
    let mut listing = Listing::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES_MAX) {
        let Ok(metadata) = entry.metadata() else { continue };
        listing.push((entry.path(), metadata.len(), metadata.modified().ok()));
        if metadata.is_dir() {
            let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten().take(ENTRIES_MAX);
            listing.extend(inner.filter_map(|file| {
                let metadata = file.metadata().ok()?;
                Some((file.path(), metadata.len(), metadata.modified().ok()))
            }));
        }
    }
    listing.sort();
    listing
}
