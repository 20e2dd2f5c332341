//! Experiments on the tiny model: what is on record does not run again, and bad input says what is missing.

use ferrotune::data::orders::{self, Split, generate};
use ferrotune::experiments::{
    Bench, Report, Verdict, data_quality, forgetting, learning_rate, loss_on_prompt, methods, rates, wrong_template,
};
use serde_json::json;

use super::Workspace;

impl Workspace {
    fn bench(&self) -> Bench {
        let orders = self.path("orders");
        std::fs::create_dir_all(&orders).unwrap();
        for name in ["train.jsonl", "test.jsonl"] {
            std::fs::copy(self.path("data.jsonl"), orders.join(name)).unwrap();
        }
        std::fs::write(self.path("prose.txt"), "water and tea and milk and coffee").unwrap();
        Bench {
            model: self.path("model").display().to_string(),
            orders,
            prose: self.path("prose.txt"),
            record: self.path("arms.json"),
            recording: true,
            runs: self.path("runs"),
            steps: 2,
            answers: 2,
            seeds: 2,
        }
    }
}

#[test]
fn what_is_on_record_does_not_run_again() {
    let workspace = Workspace::new();
    let bench = workspace.bench();
    type Experiment = fn(&Bench, &str) -> ferrotune::Result<Report>;
    // Not `forgetting`: its rank 64 is wider than the tiny model.
    let experiments: [(Experiment, usize); 4] = [(learning_rate, 12), (loss_on_prompt, 4), (methods, 8), (rates, 24)];
    for (experiment, arms) in experiments {
        let first = experiment(&bench, "").unwrap();
        assert_eq!(first.sweep.arms.len(), arms, "{}", first.table.to_text());
        assert!(first.sweep.live().is_some() && first.sweep.arms.iter().all(|arm| arm.eval_loss.is_finite()));
        let second = experiment(&bench, "").unwrap();
        assert_eq!(second.sweep.live(), None, "{}", first.table.to_text());
        assert_eq!(second.table.to_text(), first.table.to_text());
        assert!(!first.verdicts.is_empty() && first.picture.to_svg().starts_with("<svg"));
    }
}

#[test]
fn a_live_arm_runs_though_it_is_on_record_and_gives_the_same_numbers() {
    let workspace = Workspace::new();
    let bench = workspace.bench();
    let first = loss_on_prompt(&bench, "").unwrap();
    let again = loss_on_prompt(&bench, "answers only, seed 1").unwrap();
    let live = again.sweep.live().unwrap();
    assert_eq!(live.name, "answers only, seed 1");
    let losses = |report: &Report| report.sweep.arms.iter().map(|arm| arm.eval_loss).collect::<Vec<_>>();
    assert_eq!(losses(&first), losses(&again));
}

/// The course's orders, to a model that learns nothing of them in two steps: every arm runs to its answers.
#[test]
fn answers_are_asked_for_by_every_arm() {
    let workspace = Workspace::new();
    let chat = json!({"eos_token": "</s>", "chat_template": "{% for m in messages %}{{ m.content }}\n{% endfor %}"});
    std::fs::write(workspace.path("model/tokenizer_config.json"), chat.to_string()).unwrap();
    let bench = Bench { steps: 1, seeds: 1, ..workspace.bench() };
    for (name, split, n) in [("train.jsonl", Split::Train, 1000), ("test.jsonl", Split::Test, 8)] {
        let orders = generate(orders::SEED, split, n);
        std::fs::write(bench.orders.join(name), orders::jsonl(&orders)).unwrap();
    }
    type Experiment = fn(&Bench, &str) -> ferrotune::Result<Report>;
    let experiments: [(Experiment, usize, usize); 2] = [(data_quality, 4, 4), (wrong_template, 4, 2)];
    for (experiment, arms, claims) in experiments {
        let report = experiment(&bench, "").unwrap();
        let asked: Vec<usize> = report.sweep.arms.iter().map(|arm| arm.answers).collect();
        assert_eq!(asked, vec![bench.answers; arms]);
        assert!(report.sweep.arms.iter().all(|arm| arm.exact_match == Some(0.0)), "{}", report.table.to_text());
        assert_eq!(report.verdicts.iter().filter(|claim| claim.verdict == Verdict::Open).count(), claims);
    }
    // More answers than are on record: the arms run again.
    let more = data_quality(&Bench { answers: 3, ..bench.clone() }, "").unwrap();
    assert!(more.sweep.arms.iter().all(|arm| arm.answers == 3 && arm.output_dir.is_some()));
}

#[test]
fn an_experiment_without_its_data_says_which() {
    let workspace = Workspace::new();
    let bench = workspace.bench();
    let error = data_quality(&bench, "").unwrap_err().to_string();
    assert!(error.contains("train.jsonl") && error.contains("has 24 records"), "{error}");
    let error = forgetting(&Bench { prose: workspace.path("none.txt"), ..bench.clone() }, "").unwrap_err().to_string();
    assert!(error.contains("none.txt"), "{error}");
    let error = methods(&Bench { orders: workspace.path("none"), ..bench }, "").unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
}
