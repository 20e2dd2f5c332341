//! What `train --help` and `plan --help` say: a flag for every config key.

use ferrotune::train::config::KEYS;
use insta::assert_snapshot;

use super::help::help;

#[test]
fn train() {
    assert_snapshot!(help(&["train"]), @r"
    Fine-tune a model

    The run is described by a TOML file, by flags named as its keys, or by both; flags win. Ctrl-C saves
    a checkpoint of the last finished step; the same command goes on from there.

    A folder that holds a run is gone on with where its settings that shape the model and the data are
    the same, and left as it is otherwise.

    Usage: ferrotune train [OPTIONS]

    Options:
          --config <FILE>
              Config file (TOML)

      -h, --help
              Print help (see a summary with '-h')

    Config keys:
          --model <TEXT>
              Base model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or
              a .gguf file [default: smollm2-135m]

          --data <TEXT>
              Training data: a .json or .jsonl file, or a folder of them

          --eval-data <TEXT>
              Held-out data; without it nothing is evaluated

          --output-dir <TEXT>
              Folder that the run is written to

          --method <TEXT>
              What is trained: all weights (full), adapters (lora), adapters beside 4-bit weights
              (qlora), or embeddings before the text (prompt-tuning) [default: qlora]

          --template <TEXT>
              Text of an example: alpaca, or the model's own chat template (chat) [default: alpaca]

          --seed <N>
              Seed of the adapters, the order of the data and dropout [default: 0]

          --init-adapter <TEXT>
              PEFT adapter to start from

          --resume-from-checkpoint <TEXT>
              Checkpoint to go on from: auto (the newest in output_dir, if any), a folder, or false
              [default: auto]

    Config keys of [lora]:
          --r <N>
              Rank of the adapters [default: 16]

          --lora-alpha <N>
              Adapters are scaled by lora_alpha / r [default: 32]

          --lora-dropout <N>
              Part of the adapters' inputs dropped in training [default: 0.05]

          --target-modules <LIST>
              Layers that get an adapter: names, or all-linear [default:
              q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]

          --use-rslora [<BOOL>]
              Scale by lora_alpha / sqrt(r) instead [default: false]

          --use-dora [<BOOL>]
              DoRA: train the length of each row of the weights, too [default: false]

          --init-lora-weights [<BOOL>]
              How adapters start: true (Kaiming-uniform A, zero B) or gaussian [default: true]

          --rank-pattern <TEXT>
              Ranks of single layers, such as { q_proj = 8 }

          --alpha-pattern <TEXT>
              Alphas of single layers, such as { q_proj = 16 }

    Config keys of [prompt_tuning]:
          --num-virtual-tokens <N>
              Embeddings that prompt tuning puts before every text (20 by default)

          --prompt-tuning-init <TEXT>
              How these start: as tokens of the vocabulary (SAMPLE_VOCAB, the default), RANDOM, or as
              those of a TEXT

          --prompt-tuning-init-text <TEXT>
              The text that they start as

    Config keys of [quantization]:
          --bnb-4bit-quant-type <TEXT>
              4-bit type of the frozen weights under qlora [default: nf4]

          --bnb-4bit-use-double-quant [<BOOL>]
              Quantize the scales of the 4-bit blocks too [default: true]

          --bnb-4bit-compute-dtype <TEXT>
              Type of activations where the device multiplies bfloat16 fast; else float32 [default:
              bfloat16]

    Config keys of [sft]:
          --num-train-epochs <N>
              Passes over the data [default: 3]

          --max-steps <N>
              Optimizer steps; -1 lets num_train_epochs decide [default: -1]

          --per-device-train-batch-size <N>
              Rows of a micro-batch [default: 2]

          --gradient-accumulation-steps <N>
              Micro-batches of an optimizer step [default: 4]

          --learning-rate <N>
              Peak learning rate [default: 0.0002]

          --lr-scheduler-type <TEXT>
              Shape of the learning rate: cosine, linear, constant or constant_with_warmup [default:
              cosine]

          --warmup-ratio <N>
              Part of the steps in which the rate rises [default: 0.03]

          --max-grad-norm <N>
              Gradients are clipped to this norm; 0 turns clipping off [default: 0.3]

          --weight-decay <N>
              AdamW's weight decay [default: 0]

          --adam-beta1 <N>
              AdamW's decay of the mean [default: 0.9]

          --adam-beta2 <N>
              AdamW's decay of the variance [default: 0.999]

          --adam-epsilon <N>
              AdamW's term against division by zero [default: 0.00000001]

          --max-length <N>
              Tokens of a row; longer examples are cut [default: 1024]

          --packing [<BOOL>]
              Fill rows with several examples, which never see each other [default: true]

          --completion-only-loss [<BOOL>]
              Train on the output only, not on the prompt [default: false]

          --shuffle [<BOOL>]
              Shuffle the data in every epoch [default: true]

          --gradient-checkpointing [<BOOL>]
              Compute activations twice to save memory [default: true]

          --neftune-noise-alpha <N>
              NEFTune: noise on the embeddings while training; 5 is usual

          --loraplus-lr-ratio <N>
              LoRA+: how many times the learning rate the matrices B have; 16 is usual

          --logging-steps <N>
              Steps between two lines of progress [default: 10]

          --eval-strategy <TEXT>
              When eval_data is evaluated: no, steps or epoch [default: epoch]

          --eval-steps <N>
              Steps between two evaluations [default: 100]

          --save-strategy <TEXT>
              When a checkpoint is written: no, steps or epoch [default: epoch]

          --save-steps <N>
              Steps between two checkpoints [default: 500]

          --save-total-limit <N>
              Checkpoints kept; older ones are deleted [default: 3]

    Examples:
      ferrotune train --config orders.toml
      ferrotune train --config orders.toml --learning-rate 1e-4 --output-dir runs/slower
      ferrotune train --data train.jsonl --output-dir runs/a --target-modules q_proj,v_proj --max-steps
      100
    ");
}

#[test]
fn plan_takes_what_train_takes() {
    let (train, plan) = (help(&["train"]), help(&["plan"]));
    let keys = |text: &str| text.split_once("Config keys:").map(|(_, keys)| keys.to_owned()).expect("keys");
    let keys = [keys(&train), keys(&plan)].map(|text| text.split("Examples:").next().map(str::to_owned));
    assert_eq!(keys[0], keys[1]);
    for key in KEYS {
        assert!(train.contains(&format!("{} ", key.flag())), "no {}", key.flag());
    }
}
