//! The request to stop a node.

use tokio::sync::watch;

/// The wish to stop: raised once, seen by all who hold a clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<bool>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Stop {
    /// Raises it.
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    /// Whether it is raised.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves once it is raised.
    pub async fn requested(&self) {
        // The sender is `self.0`: the channel outlives this wait, so it cannot fail.
        let _ = self.0.subscribe().wait_for(|raised| *raised).await;
    }
}
