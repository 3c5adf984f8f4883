//! Faults planted in a real node fire their alerts in a real Prometheus, and no others.

use super::live::{FIRES_WITHIN, end, plant, seen, until};
use crate::support::models::golden;
use crate::support::mounted::Mounted;
use crate::support::programs::find;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_fault_fires_its_own_alert_and_no_other() {
    let Some(program) = find("prometheus") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mounted = match Mounted::new(&folder.path().join("run")) {
        Ok(mounted) => Some(mounted),
        Err(why) => {
            eprintln!("without a disk to fill: {why}");
            None
        }
    };
    // The learner never publishes, so that the planted critic stays until it is taken back.
    let more = "learner.publish_every_steps=1000000\nswap.canary_texts=0\nswap.rollback_groups=6\nrollout.ask_deadline_seconds=120";
    let (mut child, prometheus, _) = seen(&program, folder.path(), more).await;
    let firing = async || -> BTreeSet<String> {
        let firing = prometheus.firing().await.into_iter().filter(|alert| alert["labels"]["severity"] != "info");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    };
    let fired = async |name: &str| {
        let with_it = async || Some(firing().await).filter(|firing| firing.contains(name));
        until(name, FIRES_WITHIN, with_it).await
    };
    let quiet = async || {
        let none = async || firing().await.is_empty().then_some(());
        until("the end of the alerts", Duration::from_secs(150), none).await;
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();

    // A whole window of scored groups before: what it earns is compared with.
    let scored =
        async || prometheus.number("rco_rollout_episodes_ended_total{outcome=\"scored\"}").await.filter(|n| *n > 20.0);
    until("scored episodes", Duration::from_secs(60), scored).await;
    plant(&mut child, &format!("plant {}", golden("tiny_lora").display()));
    assert_eq!(fired("RcoRolledBack").await, names(&["RcoRolledBack"]));

    if mounted.is_some() {
        let ballast = folder.path().join("run/ballast");
        let filled = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", &format!("of={}", ballast.display())])
            .stderr(Stdio::null())
            .status();
        assert!(!filled.unwrap().success(), "the disk is full");
        // A full disk is also a late or failed checkpoint; what the planted critic has earned may still be seen.
        let also = names(&["RcoCheckpointFailing", "RcoCheckpointLate", "RcoRolledBack", "RcoUtilityFalls"]);
        let others: Vec<_> = fired("RcoDiskNearlyFull").await.difference(&also).cloned().collect();
        assert_eq!(others, ["RcoDiskNearlyFull"]);
        std::fs::remove_file(ballast).unwrap();
    }
    quiet().await;

    plant(&mut child, "judge stalls");
    assert_eq!(fired("RcoStageStalled").await, names(&["RcoStageStalled"]));
    plant(&mut child, "judge answers");
    quiet().await;
    end(child, folder.path());
}
