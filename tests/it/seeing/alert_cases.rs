//! Series on which each alert fires, and series beside them on which it does not.
//!
//! Values are in the notation of `promtool test rules`, one a minute. All is well for the first ten minutes.

use rco_node::telemetry::metrics::{self as m, Named};

/// What happens to one alert.
pub struct Case {
    /// Its name.
    pub alert: &'static str,
    /// Its labels beside instance and severity.
    pub labels: Vec<(&'static str, &'static str)>,
    /// The minute at which it fires.
    pub minute: u32,
    /// Series of the instance that it fires for: metric, matchers, values.
    pub bad: Vec<Series>,
    /// Series of the instance that it does not fire for.
    pub good: Vec<Series>,
}

/// A series without its instance.
pub struct Series {
    /// The metric.
    pub name: String,
    /// Its labels.
    pub labels: &'static str,
    /// Its values.
    pub values: String,
}

fn series(metric: &impl Named, labels: &'static str, values: impl Into<String>) -> Series {
    Series { name: metric.name().to_owned(), labels, values: values.into() }
}

/// The series `ending` of a histogram.
fn part(metric: &impl Named, ending: &str, labels: &'static str, values: &str) -> Series {
    Series { name: format!("{}{ending}", metric.name()), labels, values: values.to_owned() }
}

fn case(alert: &'static str, minute: u32, bad: Vec<Series>, good: Vec<Series>) -> Case {
    Case { alert, labels: vec![], minute, bad, good }
}

impl Case {
    fn with(self, label: &'static str, value: &'static str) -> Self {
        Self { labels: [self.labels, vec![(label, value)]].concat(), ..self }
    }
}

/// Every case; each alert has one at least.
pub fn cases() -> Vec<Case> {
    [health(), signal(), judging(), learning(), capacity(), disk(), changes()].into_iter().flatten().collect()
}

fn health() -> Vec<Case> {
    let up = |values: &str| Series { name: "up".to_owned(), labels: "job=\"rco-node\"", values: values.to_owned() };
    let oldest = |stage, values| series(&m::STAGE_OLDEST_SECONDS, stage, values);
    let (verdict, lease) = ("stage=\"verdict\"", "stage=\"lease\"");
    vec![
        case("RcoNodeDown", 20, vec![up("1x10 0x60")], vec![up("1x10 0x1 1x60")]).with("job", "rco-node"),
        case(
            "RcoNotReady",
            40,
            vec![series(&m::NODE_READY, "", "1x10 0x60")],
            vec![series(&m::NODE_READY, "", "1x10 0x12 1x60")],
        ),
        // A learner that waits for groups is another alert's.
        case(
            "RcoStageStalled",
            40,
            vec![oldest(verdict, "0x10 0+60x60")],
            vec![oldest(verdict, "0x10 0+60x14 0x60"), oldest(lease, "0+60x70")],
        )
        .with("stage", "verdict"),
        case(
            "RcoDeviceStalled",
            20,
            vec![series(&m::DEVICE_BUSY_SECONDS, "", "0x10 0+60x60")],
            vec![series(&m::DEVICE_BUSY_SECONDS, "", "0x10 0+60x1 0x60")],
        ),
    ]
}

fn signal() -> Vec<Case> {
    let ended = |outcome, values| series(&m::EPISODES_ENDED, outcome, values);
    let utility = |ending, values| part(&m::UTILITY_HISTOGRAM, ending, "task=\"t\",version=\"serving\"", values);
    let (flat, scored) = ("outcome=\"zero_variance\"", "outcome=\"scored\"");
    vec![
        case(
            "RcoNoUtility",
            70,
            vec![ended("outcome=\"unscored\"", "0+5x200"), utility("_count", "0+5x10 50x200")],
            // Nothing ends: what stands still is another alert's.
            vec![ended("outcome=\"unscored\"", "5x200"), utility("_count", "5x200")],
        ),
        case(
            "RcoGroupsFlat",
            100,
            vec![ended(flat, "0x10 0+5x200"), ended(scored, "0+5x10 50x200")],
            vec![ended(flat, "0+5x200"), ended(scored, "0+1x200")],
        ),
        // Few groups, all of them flat: too few to say.
        case(
            "RcoGroupsFlat",
            100,
            vec![ended(flat, "0x10 0+5x200"), ended(scored, "0+5x10 50x200")],
            vec![ended(flat, "0x10 1x20 2x20 3x200"), ended(scored, "0x200")],
        ),
        case(
            "RcoUtilityFalls",
            290,
            vec![utility("_count", "0+10x400"), utility("_sum", "0+6x200 1200+2x200")],
            vec![utility("_count", "0+10x400"), utility("_sum", "0+6x200 1200+5.5x200")],
        ),
    ]
}

fn judging() -> Vec<Case> {
    let verdicts = |verdict, values| series(&m::VERDICTS, verdict, values);
    let answers = |answer, values| series(&m::JUDGE_ANSWERS, answer, values);
    let (invalid, win) = ("verdict=\"invalid_unreadable\"", "verdict=\"win\"");
    let (first, second) = ("answer=\"first\"", "answer=\"second\"");
    vec![
        case(
            "RcoVerdictsInvalid",
            60,
            vec![verdicts(invalid, "0x10 0+5x100"), verdicts(win, "0+5x110")],
            vec![verdicts(invalid, "0+1x110"), verdicts(win, "0+9x110")],
        ),
        case(
            "RcoJudgeBiased",
            80,
            vec![answers(first, "0+5x10 50+9x120"), answers(second, "0+5x10 50+1x120")],
            vec![answers(first, "0+6x130"), answers(second, "0+4x130")],
        ),
        // The other way round it is the same fault.
        case(
            "RcoJudgeBiased",
            80,
            vec![answers(first, "0+5x10 50+1x120"), answers(second, "0+5x10 50+9x120")],
            vec![answers(first, "0x130"), answers(second, "0x130")],
        ),
    ]
}

fn learning() -> Vec<Case> {
    vec![
        case(
            "RcoCriticDiverges",
            40,
            vec![series(&m::LOG_RATIO_SECOND_MOMENT, "", "4x10 900x60")],
            vec![series(&m::LOG_RATIO_SECOND_MOMENT, "", "40x70")],
        ),
        case(
            "RcoGradientGrows",
            225,
            vec![series(&m::GRADIENT_NORM, "", "1x200 50x60")],
            vec![series(&m::GRADIENT_NORM, "", "1x200 50x2 1x60")],
        ),
        case(
            "RcoSamplerLearnerDiffer",
            40,
            vec![series(&m::TRAIN_INFERENCE_MISMATCH, "", "0.004x10 0.2x60")],
            vec![series(&m::TRAIN_INFERENCE_MISMATCH, "", "0.004x70")],
        ),
    ]
}

fn capacity() -> Vec<Case> {
    let in_flight = |stage, values| series(&m::STAGE_IN_FLIGHT, stage, values);
    let limit = || series(&m::EPISODES_LIMIT, "", "6x110");
    let texts = || part(&m::ROLE_TOKENS, "_count", "role=\"critic\"", "0+10x110");
    let memory = |values: &str| series(&m::MEMORY, "owner=\"weights\"", values);
    let planned = |values: &str| series(&m::MEMORY_PLANNED, "owner=\"weights\"", values);
    let (lease, admission) = ("stage=\"lease\"", "stage=\"admission\"");
    vec![
        case(
            "RcoLearnerStarved",
            80,
            vec![in_flight(lease, "0x10 1x100".to_owned())],
            vec![in_flight(lease, "0 1 ".repeat(55))],
        ),
        case(
            "RcoRolloutStarved",
            80,
            vec![in_flight(admission, "0x10 6x100".to_owned()), limit()],
            vec![in_flight(admission, "2x110".to_owned()), limit()],
        ),
        case(
            "RcoCacheThrash",
            40,
            vec![series(&m::PREEMPTIONS, "", "0x10 0+5x100"), texts()],
            vec![series(&m::PREEMPTIONS, "", "0x10 3x100"), texts()],
        ),
        case(
            "RcoMemoryOverPlan",
            40,
            vec![memory("1e9x10 1.4e9x60"), planned("1e9x70")],
            vec![memory("1e9x10 1.1e9x60"), planned("1e9x70")],
        ),
        // A tiny model's process is mostly program.
        case(
            "RcoMemoryOverPlan",
            40,
            vec![memory("1e9x10 1.4e9x60"), planned("1e9x70")],
            vec![memory("1e8x10 2e8x60"), planned("1e8x70")],
        ),
    ]
}

fn disk() -> Vec<Case> {
    let step = |values: &str| series(&m::LEARNER_STEP, "", values);
    let due = |values: &str| series(&m::CHECKPOINT_DUE_STEP, "", values);
    let failed = |values: &str| series(&m::CHECKPOINT_FAILURES, "", values);
    let free = |values: &str| series(&m::DISK_FREE_BYTES, "", values);
    let size = || series(&m::DISK_BYTES, "", "1000x70");
    let checkpoint = || series(&m::CHECKPOINT_BYTES, "", "60x70");
    vec![
        case(
            "RcoCheckpointLate",
            40,
            vec![step("0x10 12x60"), due("12x70")],
            vec![step("0x10 12x12 13x60"), due("12x22 24x60")],
        ),
        case("RcoCheckpointFailing", 13, vec![failed("0x10 1x30")], vec![failed("7x40")]),
        case("RcoDiskNearlyFull", 30, vec![free("500x10 20x60"), size()], vec![free("200x70"), size(), checkpoint()]),
        // A share that looks well, and no room for three checkpoints.
        case(
            "RcoDiskNearlyFull",
            30,
            vec![free("500x10 100x60"), size(), checkpoint()],
            vec![free("200x70"), size(), checkpoint()],
        ),
    ]
}

fn changes() -> Vec<Case> {
    let restarts = |values: &str| series(&m::RESTARTS, "actor=\"judge\"", values);
    let back = |values: &str| series(&m::SWAPS, "outcome=\"rolled_back\"", values);
    let published = |values: &str| series(&m::SWAPS, "outcome=\"published\"", values);
    let http = |labels, values: &str| series(&m::HTTP_REQUESTS, labels, values);
    let (failed, answered) = ("route=\"chat\",code=\"5xx\"", "route=\"chat\",code=\"2xx\"");
    vec![
        case(
            "RcoHttpErrors",
            30,
            vec![http(failed, "0x10 0+2x40"), http(answered, "0+8x50")],
            vec![http(failed, "0+2x50"), http(answered, "0+98x50")],
        ),
        case("RcoRestarts", 13, vec![restarts("0x10 1x30")], vec![restarts("4x40")]).with("actor", "judge"),
        case("RcoRolledBack", 13, vec![back("0x10 1x30")], vec![back("0x40"), published("0+1x40")]),
    ]
}
