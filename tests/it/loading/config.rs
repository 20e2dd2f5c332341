//! `config.json` of the models that are supported, as their makers published it.

use std::path::Path;

use ferrotune::model::Config;
use ferrotune::model::rope::RopeScaling;
use serde_json::{Value, json};

fn read(config: Value) -> ferrotune::Result<Config> {
    Config::from_json(config, Path::new("config.json"))
}

/// The message that refuses `config`.
fn refusal(config: Value) -> String {
    let error = read(config).expect_err("the config is refused");
    assert!(error.is_input(), "{error}");
    error.to_string()
}

/// `base` with `changes`; a null takes the key out.
fn with(mut base: Value, changes: Value) -> Value {
    let map = base.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => map.remove(key),
            value => map.insert(key.clone(), value.clone()),
        };
    }
    base
}

/// meta-llama/Llama-2-7b-hf
fn llama_2() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "tie_word_embeddings": false,
        "torch_dtype": "float16", "transformers_version": "4.31.0.dev0", "use_cache": true, "vocab_size": 32000,
    })
}

/// meta-llama/Meta-Llama-3-8B
fn llama_3() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 8192, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 500000.0, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.40.0.dev0", "use_cache": true, "vocab_size": 128256,
    })
}

/// meta-llama/Llama-3.1-8B-Instruct
fn llama_3_1() -> Value {
    with(
        llama_3(),
        json!({
            "eos_token_id": [128001, 128008, 128009], "max_position_embeddings": 131072, "mlp_bias": false,
            "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        }),
    )
}

/// meta-llama/Llama-3.2-1B
fn llama_3_2() -> Value {
    with(
        llama_3_1(),
        json!({
            "eos_token_id": 128001, "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192,
            "num_hidden_layers": 16, "tie_word_embeddings": true,
            "rope_scaling": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        }),
    )
}

/// HuggingFaceTB/SmolLM2-135M-Instruct
fn smollm2() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false,
        "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3", "use_cache": true, "vocab_size": 49152,
    })
}

fn llama3_rope(factor: f64) -> Option<RopeScaling> {
    Some(RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    })
}

#[test]
fn published_configs_are_read() {
    // vocab, hidden, intermediate, layers, heads, key-value heads, head_dim, positions
    type Shape = [usize; 8];
    type Row = (&'static str, Value, Shape, f64, Option<RopeScaling>, bool, u32, &'static [u32], &'static str);
    let rows: [Row; 5] = [
        ("Llama 2", llama_2(), [32000, 4096, 11008, 32, 32, 32, 128, 4096], 10_000.0, None, false, 1, &[2], "float16"),
        (
            "Llama 3",
            llama_3(),
            [128256, 4096, 14336, 32, 32, 8, 128, 8192],
            500_000.0,
            None,
            false,
            128000,
            &[128001],
            "bfloat16",
        ),
        (
            "Llama 3.1",
            llama_3_1(),
            [128256, 4096, 14336, 32, 32, 8, 128, 131072],
            500_000.0,
            llama3_rope(8.0),
            false,
            128000,
            &[128001, 128008, 128009],
            "bfloat16",
        ),
        (
            "Llama 3.2",
            llama_3_2(),
            [128256, 2048, 8192, 16, 32, 8, 64, 131072],
            500_000.0,
            llama3_rope(32.0),
            true,
            128000,
            &[128001],
            "bfloat16",
        ),
        ("SmolLM2", smollm2(), [49152, 576, 1536, 30, 9, 3, 64, 8192], 100_000.0, None, true, 1, &[2], "bfloat16"),
    ];
    for (name, json, shape, theta, scaling, tied, bos, eos, dtype) in rows {
        let c = read(json.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = [
            c.vocab_size,
            c.hidden_size,
            c.intermediate_size,
            c.num_hidden_layers,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            c.max_position_embeddings,
        ];
        assert_eq!(found, shape, "{name}");
        assert_eq!((c.rope_theta, c.rms_norm_eps), (theta, 1e-5), "{name}");
        assert_eq!(c.rope_scaling, scaling, "{name}");
        assert_eq!(c.tie_word_embeddings, tied, "{name}");
        assert_eq!((c.bos_token_id, c.eos_token_ids.as_slice()), (Some(bos), eos), "{name}");
        assert_eq!(c.dtype.as_deref(), Some(dtype), "{name}");
        assert_eq!((c.architecture.as_str(), c.model_type.as_str()), ("LlamaForCausalLM", "llama"), "{name}");
        assert_eq!(c.quantization, None, "{name}");
        assert_eq!(c.raw, json, "{name}: the file as it was, for writing it again");
    }
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let keys = ["num_key_value_heads", "tie_word_embeddings", "rms_norm_eps", "max_position_embeddings"];
    let absent = keys.iter().map(|key| (key.to_string(), Value::Null)).collect();
    let c = read(with(llama_2(), Value::Object(absent))).unwrap();
    assert_eq!(c.num_key_value_heads, 32, "as many as heads");
    assert!(!c.tie_word_embeddings);
    assert_eq!((c.rms_norm_eps, c.max_position_embeddings), (1e-6, 2048));
    // The explicit one wins, and need not be hidden_size / heads.
    assert_eq!(read(with(llama_2(), json!({"head_dim": 96}))).unwrap().head_dim, 96);
    // Without `architectures` the type tells; and the older word for the kind of scaling.
    let old = json!({"architectures": null, "rope_scaling": {"type": "linear", "factor": 2.5}});
    assert_eq!(read(with(llama_2(), old)).unwrap().rope_scaling, Some(RopeScaling::Linear { factor: 2.5 }));
    let default = json!({"rope_scaling": {"rope_type": "default"}});
    assert_eq!(read(with(llama_2(), default)).unwrap().rope_scaling, None);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (changes, told) in [
        (
            json!({"architectures": ["Qwen3ForCausalLM"]}),
            &["`architectures`", "`Qwen3ForCausalLM`", "`LlamaForCausalLM`"][..],
        ),
        (json!({"architectures": null, "model_type": "gpt_neox"}), &["`model_type`", "`gpt_neox`"]),
        (json!({"architectures": null, "model_type": null}), &["`architectures`", "missing"]),
        (json!({"attention_bias": true}), &["`attention_bias`"]),
        (json!({"mlp_bias": true}), &["`mlp_bias`"]),
        (json!({"hidden_act": "gelu"}), &["`hidden_act`", "`gelu`", "`silu`"]),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), &["`rope_type`", "`yarn`"]),
        (json!({"rope_scaling": {"rope_type": "linear"}}), &["`factor`", "missing"]),
        (json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}), &["`low_freq_factor`", "missing"]),
        (
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
            &["`partial_rotary_factor`"],
        ),
        (json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), &["`quant_method`", "`gptq`"]),
        (
            json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}}),
            &["`load_in_4bit`", "8 bits"],
        ),
        (json!({"hidden_size": null}), &["`hidden_size`", "missing"]),
        (json!({"vocab_size": "many"}), &["`vocab_size`", "many"]),
        (json!({"num_hidden_layers": 0}), &["`num_hidden_layers`", "`0`"]),
        (json!({"num_attention_heads": 31}), &["`hidden_size`", "4096", "31"]),
        (json!({"num_key_value_heads": 5}), &["`num_key_value_heads`", "32", "5"]),
        (json!({"head_dim": 63}), &["`head_dim`", "63"]),
        (json!({"intermediate_size": 1u64 << 40}), &["`intermediate_size`"]),
        (json!({"rms_norm_eps": -1.0}), &["`rms_norm_eps`"]),
    ] {
        let text = refusal(with(llama_2(), changes.clone()));
        assert!(text.starts_with("`config.json`"), "{changes}: {text}");
        for words in told {
            assert!(text.contains(words), "{changes}: no {words} in {text}");
        }
    }
}
