//! Promises of the client's config; what it does with a server is tested in `tests/it/judging/remote.rs`.
use super::*;
use serde::Deserialize;

fn with_url(base_url: &str) -> RemoteConfig {
    #[derive(Deserialize)]
    struct Whole {
        remote: RemotesConfig,
    }
    let whole: Whole = toml::from_str(include_str!("../../configs/quickstart.toml")).unwrap();
    RemoteConfig { base_url: base_url.into(), model: "m".into(), ..whole.remote.judge }
}

#[test]
fn an_address_is_plain_http_or_https_and_holds_no_secret() {
    for good in ["http://127.0.0.1:8000/v1", "https://api.example.com/v1/", "http://[::1]:80"] {
        assert_eq!(with_url(good).complaints("remote.judge", true), [""; 0], "{good}");
        let url = config::url(good).unwrap();
        assert!(url.path().ends_with("/chat/completions") && !url.path().contains("//"), "{url}");
    }
    for bad in ["", "localhost:8000", "ftp://a/v1", "http://", "http://a/v1?key=x", "http://a/v1#x", "http://u:pw@a/v1"]
    {
        let complaints = with_url(bad).complaints("remote.judge", true);
        assert!(
            complaints.len() == 1 && complaints[0].starts_with("remote.judge.base_url: expected"),
            "{complaints:?}"
        );
        assert!(!complaints[0].contains("pw"), "{complaints:?}");
        assert!(Client::new(&with_url(bad)).is_err());
    }
    assert_eq!(with_url("").complaints("remote.judge", false), [""; 0], "who is not used needs no address");
}

#[test]
fn secrets_in_an_address_are_in_no_message() {
    for bad in ["http://u:secret@a/v1", "http://a/v1?key=secret", "https://a/v1#secret"] {
        let config = RemoteConfig { api_key_env: "CARGO_PKG_NAME".into(), ..with_url(bad) };
        let told = config.complaints("remote.judge", true).concat() + &Client::new(&config).err().unwrap().to_string();
        assert!(told.contains("base_url") && !told.contains("secret"), "{told}");
    }
}

#[test]
fn a_key_goes_over_plain_http_to_this_machine_alone() {
    let made = |base_url: &str, key_over_http| {
        let api_key_env = "CARGO_PKG_NAME".into();
        Client::new(&RemoteConfig { api_key_env, key_over_http, ..with_url(base_url) }).err()
    };
    for safe in ["https://a/v1", "http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:80/v1"] {
        assert_eq!(made(safe, false), None, "{safe}");
    }
    assert_eq!((made("http://a/v1", false), made("http://a/v1", true)), (Some(Error::KeyOverHttp), None));
}

#[test]
fn a_key_in_the_place_of_its_variables_name_is_refused_and_not_repeated() {
    for pasted in ["sk-abcdef", "hf_abcdef", "a b", &"K".repeat(65)] {
        let config = RemoteConfig { api_key_env: pasted.into(), ..with_url("https://a/v1") };
        let complaints = config.complaints("remote.judge", true);
        assert!(complaints.len() == 1 && complaints[0].contains("not a key"), "{complaints:?}");
        assert!(!complaints[0].contains(pasted), "{complaints:?}");
    }
    let config = RemoteConfig { api_key_env: "RCO_NO_SUCH_KEY".into(), ..with_url("http://a/v1") };
    assert_eq!(Client::new(&config).err(), Some(Error::Key("RCO_NO_SUCH_KEY".into())));
}

#[test]
fn a_key_goes_over_plain_http_to_this_machine_alone_unless_that_is_allowed() {
    for (address, allowed) in [
        ("http://judge.example/v1", false),
        ("http://10.0.0.7:8000/v1", false),
        ("https://judge.example/v1", true),
        ("http://localhost:8000/v1", true),
        ("http://127.0.0.9/v1", true),
        ("http://[::1]:8000/v1", true),
    ] {
        let with_key = RemoteConfig { api_key_env: "KEY".into(), ..with_url(address) };
        let complaints = with_key.complaints("remote.judge", true);
        assert_eq!(complaints.is_empty(), allowed, "{address}: {complaints:?}");
        assert!(allowed || complaints[0].contains("key_over_http"), "{complaints:?}");
        let said_yes = RemoteConfig { key_over_http: true, ..with_key };
        assert_eq!(said_yes.complaints("remote.judge", true), [""; 0], "{address}");
    }
}

#[test]
fn limits_that_nothing_can_live_with_are_told() {
    let complaint = |change: fn(&mut RemoteConfig)| {
        let mut config = with_url("http://a/v1");
        change(&mut config);
        config.complaints("remote.judge", true).concat()
    };
    assert!(complaint(|config| config.model = " ".into()).starts_with("remote.judge.model: expected"));
    assert!(complaint(|config| config.concurrency_max = 0).starts_with("remote.judge.concurrency_max: expected"));
    assert!(complaint(|config| config.timeout_seconds = 0).starts_with("remote.judge.timeout_seconds: expected"));
    assert!(complaint(|config| config.retry_share = f64::NAN).starts_with("remote.judge.retry_share: expected"));
    let shrinking = complaint(|config| config.backoff_max_milliseconds = 1);
    assert!(shrinking.starts_with("remote.judge.backoff_max_milliseconds: expected at least"), "{shrinking}");
}
