//! Full fine-tuning, DoRA, LoRA+ and prompt tuning: the numbers of transformers and PEFT.

use ferrotune::prompt_tuning::{self, SoftPrompt};

use super::*;

const BASE: &str = "tiny-llama-2";

/// A decoder with the adapter or the prompt in `directory`.
fn with(directory: &Path, quantization: Option<Quantization>, train: bool) -> Decoder {
    let mut decoder = decoder(&golden(BASE), quantization);
    if prompt_tuning::is_prompt(directory).unwrap() {
        let prompt = SoftPrompt::load(directory, decoder.config.hidden_size, decoder.device()).unwrap();
        decoder.set_soft_prompt(&prompt, train).unwrap();
    } else {
        adapt(&mut decoder, directory, train);
    }
    decoder
}

#[test]
fn logits_equal_peft() {
    let ids: Vec<Vec<u32>> = json(format!("{BASE}/ids.json"));
    for method in ["dora", "prompt"] {
        let directory = golden("methods").join(method);
        let decoder = with(&directory, None, false);
        let expected = tensors(directory.join("logits.safetensors"));
        for (i, ids) in ids.iter().enumerate() {
            let key = format!("logits.{i}");
            let what = format!("{method} {key}");
            assert_tensors_close(&what, &decoder.logits(ids).unwrap(), &expected[&key], TINY_LOGITS);
        }
    }
}

/// The virtual tokens go into the cache before the first token of a sequence, and only there.
#[test]
fn cached_steps_after_a_prompt_give_the_logits_of_whole_sequences() {
    let ids: Vec<Vec<u32>> = json(format!("{BASE}/ids.json"));
    let directory = golden("methods/prompt");
    let decoder = with(&directory, None, false);
    let expected = &tensors(directory.join("logits.safetensors"))["logits.2"];
    let ids = &ids[2];
    let mut cache = SequenceCache::new(&decoder, ids.len()).unwrap();
    let mut done = 0;
    for end in [5, 6, ids.len() - 1, ids.len()] {
        let logits = decoder.step(&mut [&mut cache], &[&ids[done..end]]).unwrap();
        let what = format!("after {end} tokens");
        assert_tensors_close(&what, &logits.get(0).unwrap(), &expected.get(end - 1).unwrap(), TINY_LOGITS);
        done = end;
    }
    assert_eq!(cache.len(), ids.len() + decoder.virtual_tokens());
}

#[test]
fn ten_steps_follow_peft_by_every_method() {
    for method in ["dora", "qdora", "loraplus", "prompt"] {
        let run: Run = json(format!("methods/train-{method}.json"));
        let expected = tensors(format!("methods/train-{method}.safetensors"));
        for gradient_checkpointing in [false, true] {
            let decoder = with(&golden(&run.adapter), run.quantization(), true);
            let decoder = train(method, decoder, &run, gradient_checkpointing);
            assert_eq!(decoder.parameters().len(), expected.len());
            for parameter in decoder.parameters().iter() {
                let what = format!("{method} {}", parameter.name);
                assert_tensors_close(&what, &parameter.value, &expected[&parameter.name], TRAINED);
            }
        }
    }
}

#[test]
fn ten_steps_of_full_fine_tuning_follow_transformers() {
    let run: Run = json("methods/train-full.json");
    for gradient_checkpointing in [false, true] {
        let options = LoadOptions { train_weights: true, ..LoadOptions::new(Device::Cpu, DType::F32) };
        let decoder = load(&ferrotune::model::open(&golden(BASE)).unwrap(), &options, |_, _| {}).unwrap();
        train("full", decoder, &run, gradient_checkpointing);
    }
}

/// A shared beginning, the prompt in it, changes nothing.
#[test]
fn a_prompt_is_computed_once_for_all_sequences() {
    let decoder = with(&golden("methods/prompt"), None, true);
    let sequences: [&[u32]; 3] = [&[5, 6, 7, 8, 9, 20], &[5, 6, 7, 8, 21], &[5, 6, 7, 8, 22, 23]];
    let trained = [false, false, false, false, true, true];
    let marked = || sequences.iter().map(|ids| (*ids, &trained[..ids.len()]));
    let [apart, shared] = [false, true].map(|sharing| {
        let batch = decoder.batch(marked(), sharing).unwrap();
        let mut gradients = Gradients::new(decoder.parameters());
        let pass = Pass { scale: 0.2, ..Pass::default() };
        let loss = decoder.loss_and_gradients(&batch, pass, &mut gradients).unwrap().loss_sum;
        (batch.ids.len(), batch.tokens(), loss, gradients.into_tensors(decoder.parameters()).unwrap().remove(0))
    });
    // The six virtual tokens and the three that all begin with and that foresee nothing trained.
    assert_eq!((apart.0, shared.0), (17 + 3 * 6, 17 + 6 - 2 * 3));
    assert_eq!((apart.1, shared.1), (17, 17));
    assert_close("loss", [shared.2], &[apart.2], Bound { absolute: 1e-5, relative: 0.0 });
    assert_tensors_close("gradient", &shared.3, &apart.3, Bound { absolute: 1e-5, relative: 1e-4 });
}

#[test]
fn files_survive_a_round_trip() {
    let directory = tempfile::tempdir().unwrap();
    for method in ["dora", "prompt"] {
        let from = golden("methods").join(method);
        let mut decoder = decoder(&golden(BASE), None);
        if method == "prompt" {
            let prompt = SoftPrompt::load(&from, decoder.config.hidden_size, &Device::Cpu).unwrap();
            prompt.save(directory.path()).unwrap();
        } else {
            lora::peft::save(&adapt(&mut decoder, &from, false), directory.path()).unwrap();
        }
        let written = tensors(directory.path().join("adapter_model.safetensors"));
        let original = tensors(from.join("adapter_model.safetensors"));
        assert_eq!(written.len(), original.len());
        for (key, tensor) in &original {
            assert_tensors_close(key, &written[key], tensor, Bound { absolute: f64::MIN_POSITIVE, relative: 0.0 });
        }
        let config = |folder: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
        };
        let (ours, theirs) = (config(directory.path()), config(&from));
        for (key, value) in ours.as_object().unwrap() {
            assert_eq!(value, &theirs[key], "{method} {key}");
        }
    }
}

/// A new DoRA adapter changes nothing.
#[test]
fn dora_starts_at_the_base_model() {
    let ids: Vec<Vec<u32>> = json(format!("{BASE}/ids.json"));
    let mut decoder = decoder(&golden(BASE), None);
    let expected = decoder.logits(&ids[2]).unwrap();
    let config = lora::LoraConfig { use_dora: true, r: 4, ..Default::default() };
    let adapter = decoder.new_adapter(config, BASE, 7).unwrap();
    assert!(adapter.layers.values().all(|layer| layer.magnitude.is_some()));
    decoder.set_adapter(&adapter, true).unwrap();
    assert_tensors_close("logits", &decoder.logits(&ids[2]).unwrap(), &expected, TINY_LOGITS);
}
