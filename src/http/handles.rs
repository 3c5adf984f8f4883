//! What the handlers of requests for texts need.

use super::admission::Admission;
use super::api::Api;
use axum::extract::FromRef;

/// What the handlers of requests for texts need.
#[derive(Clone)]
pub(super) struct Handles {
    pub(super) api: Api,
    pub(super) admission: Admission,
}

impl FromRef<Handles> for Api {
    fn from_ref(handles: &Handles) -> Self {
        handles.api.clone()
    }
}

impl FromRef<Handles> for Admission {
    fn from_ref(handles: &Handles) -> Self {
        handles.admission.clone()
    }
}
