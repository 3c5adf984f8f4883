//! A server that trains nothing loads critics and takes them back, by vLLM's names.

use super::server::{Server, problem};
use crate::support::models::golden;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

struct Loading {
    server: Server,
    token: String,
}

impl Loading {
    async fn post(&self, path: &str, body: Value) -> reqwest::Response {
        self.server.post(path, &body).bearer_auth(&self.token).send().await.unwrap()
    }

    async fn load(&self, name: &str, path: &Path) -> reqwest::Response {
        self.post("/v1/load_lora_adapter", json!({"lora_name": name, "lora_path": path})).await
    }

    /// Version and text of the same request each time.
    async fn written(&self, model: &str) -> (u64, String) {
        let body = json!({"model": model, "prompt": "say 3 and more of it", "max_tokens": 16, "seed": 7});
        let response = self.server.post("/v1/completions", &body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", self.server.log());
        let version = response.headers()["x-critic-version"].to_str().unwrap().parse().unwrap();
        let body: Value = response.json().await.unwrap();
        (version, body["choices"][0]["text"].as_str().unwrap().to_owned())
    }
}

/// The golden adapter with its weights taken times -3.
fn opposite(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("opposite");
    fs::create_dir(&path).unwrap();
    fs::copy(golden("tiny_lora/adapter_config.json"), path.join("adapter_config.json")).unwrap();
    let mut bytes = fs::read(golden("tiny_lora/adapter_model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for value in bytes[8 + header..].chunks_exact_mut(4) {
        let opposite = -3.0 * f32::from_le_bytes((&*value).try_into().unwrap());
        value.copy_from_slice(&opposite.to_le_bytes());
    }
    fs::write(path.join("adapter_model.safetensors"), bytes).unwrap();
    path
}

#[tokio::test]
async fn a_server_loads_critics_under_names_and_takes_them_back() {
    let server = Server::serve("engine.weights='f32'").await;
    let token = fs::read_to_string(server.folder.path().join("run/http-token")).unwrap();
    let other = opposite(server.folder.path());
    let loading = Loading { server, token };
    let base = loading.written("critic").await;
    assert_eq!(base.0, 0);

    let refused = loading.server.post("/v1/load_lora_adapter", &json!({"lora_name": "a", "lora_path": other}));
    assert_eq!(problem(refused.send().await.unwrap()).await.0, 401);
    let (status, error) = problem(loading.load("a", Path::new("/nowhere")).await).await;
    assert_eq!((status, &error["code"]), (400, &json!("refused")));
    assert_eq!(loading.written("critic").await, base, "nothing happened");

    let loaded = loading.load("mine", &golden("tiny_lora")).await;
    assert_eq!(loaded.status(), 200, "{}", loading.server.log());
    assert!(loaded.text().await.unwrap().contains("'mine' added successfully as critic@1"));
    let first = loading.written("critic").await;
    assert!(first.0 == 1 && first.1 != base.1, "{first:?} {base:?}");
    // The same name with other weights: no block of the first is read.
    assert_eq!(loading.load("mine", &other).await.status(), 200);
    let second = loading.written("critic").await;
    assert!(second.0 == 2 && second.1 != first.1, "{first:?} {second:?}");
    // Weights are read once: the folder may go.
    fs::remove_dir_all(&other).unwrap();
    for (version, written) in [(0, &base), (1, &first), (2, &second)] {
        assert_eq!(&loading.written(&format!("critic@{version}")).await, written);
    }

    let unload = async |name: &str| loading.post("/v1/unload_lora_adapter", json!({"lora_name": name})).await;
    assert_eq!(unload("mine").await.status(), 200);
    assert_eq!(loading.written("critic").await, first);
    assert_eq!(unload("mine").await.status(), 200);
    assert_eq!(loading.written("critic").await, base);
    assert_eq!(problem(unload("mine").await).await.0, 404);
    // Numbers are not used again.
    let third = loading.load("third", &golden("tiny_lora")).await.text().await.unwrap();
    assert!(third.contains("critic@3"), "{third}");
    let model = json!({"model": "critic@2", "prompt": "say 3"});
    assert_eq!(problem(loading.server.post("/v1/completions", &model).send().await.unwrap()).await.0, 404);
}
