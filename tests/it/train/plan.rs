//! The plan counts what a session trains, whatever the adapters' settings.

use std::collections::BTreeMap;

use ferrotune::lora::{LoraConfig, TargetModules};
use ferrotune::train::plan::{Settings, Shape, trained_parameters};
use ferrotune::train::{Method, RunConfig};

use super::Workspace;

#[test]
fn what_is_planned_to_be_trained_is_what_a_session_trains() {
    let workspace = Workspace::new();
    let base = LoraConfig { r: 4, ..LoraConfig::default() };
    let patterns = BTreeMap::from([("q_proj".into(), 2), ("layers.1.mlp.up_proj".into(), 16)]);
    let some = TargetModules::Names(vec!["v_proj".into(), "layers.1.mlp.down_proj".into()]);
    let loras = [
        base.clone(),
        LoraConfig { rank_pattern: patterns.clone(), ..base.clone() },
        LoraConfig { use_dora: true, target_modules: some, ..base.clone() },
        LoraConfig { use_dora: true, rank_pattern: patterns, ..base },
    ];
    for (i, lora) in loras.into_iter().enumerate() {
        let config = RunConfig { lora, ..workspace.config(&format!("run-{i}")) };
        let session = workspace.session(config.clone()).unwrap();
        let model = &session.pretrained.config;
        let planned = Settings::new(&config, model, 128).unwrap();
        let planned = trained_parameters(&Shape::from(model), &planned.method);
        assert_eq!(planned, session.decoder.parameters().element_count() as u64, "{:?}", config.lora);
    }
    for method in [Method::Full, Method::PromptTuning] {
        let config = RunConfig { method, ..workspace.config(&format!("{method:?}")) };
        let session = workspace.session(config.clone()).unwrap();
        let model = &session.pretrained.config;
        let planned = Settings::new(&config, model, 128).unwrap();
        let planned = trained_parameters(&Shape::from(model), &planned.method);
        assert_eq!(planned, session.decoder.parameters().element_count() as u64, "{method:?}");
    }
}
