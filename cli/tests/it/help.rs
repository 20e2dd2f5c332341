//! What `--help` says.

use insta::assert_snapshot;

use super::ferrotune;

pub(super) fn help(command: &[&str]) -> String {
    let args: Vec<_> = command.iter().copied().chain(["--help"]).collect();
    let out = ferrotune(&args);
    assert_eq!((out.code, out.stderr.as_str()), (Some(0), ""));
    out.stdout
}

#[test]
fn the_command() {
    assert_snapshot!(help(&[]), @r"
    QLoRA fine-tuning of Llama-family models, in the ecosystem's own file formats.

    Without a command it is the quick start: it fetches SmolLM2-135M-Instruct, fine-tunes it on
    `datasets/orders` and shows the answers before and after. The run is `runs/quick-start`.

    Usage: ferrotune [COMMAND]

    Commands:
      decide    Ask the questions that tell whether to write a prompt, to retrieve, or to fine-tune
      compare   Try a prompt, retrieval and fine-tuning on one task, and measure each
      train     Fine-tune a model
      eval      Score a model's answers on held-out data: exact match, valid JSON, loss
      generate  Continue a text, or many
      chat      Talk to a model
      logits    Write a model's logits for given token ids, to compare with other implementations
      preview   Show the text that a run trains on, with the trained tokens marked
      plan      Show the memory and time that a run will need
      quantize  Write a model as a bitsandbytes NF4 checkpoint that transformers loads
      merge     Add an adapter to the model's original weights and write the result as safetensors
      gguf      Write a model as a GGUF file for llama.cpp and what is built on it
      push      Put a model or an adapter onto the Hugging Face Hub
      fetch     Fetch a model or a data set into the cache and print its path
      lab       Set up JupyterLab with the Rust kernel in `.venv`, build the book, and open the course
      doctor    Show what this machine has: cores, instruction sets, GPU, CUDA, Python, Jupyter, token
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Exit codes: 0 done, 1 failed while running, 2 the input or the usage is wrong, 130 interrupted.

    Examples:
      ferrotune                                   the quick start
      ferrotune train --config orders.toml
      ferrotune chat --adapter runs/quick-start
      ferrotune lab                               notebooks, in a clone of the repository
    ");
}

#[test]
fn eval() {
    assert_snapshot!(help(&["eval"]), @r"
    Score a model's answers on held-out data: exact match, valid JSON, loss

    Answers are decoded greedily from each record's prompt and compared with its output.

    Usage: ferrotune eval [OPTIONS] --data <D>

    Options:
          --model <M>
              Base model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or
              a .gguf file. May be left out with --adapter: then it is the one that the adapter was
              trained on

          --adapter <A>
              PEFT adapter's folder, such as a run's

          --load-in-4bit
              Quantize the model to NF4 with double quantization first, as a run by qlora does

          --data <D>
              Data: a .json or .jsonl file, or a folder of them

          --limit <N>
              Score the first N records only

          --max-new-tokens <N>
              Most tokens of an answer
              
              [default: 256]

          --batch-size <N>
              Answers decoded at a time
              
              [default: 16]

          --json
              Print one JSON object

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune eval --model smollm2-135m --data datasets/orders/test.jsonl --limit 100
      ferrotune eval --adapter runs/quick-start --load-in-4bit --data datasets/orders/test.jsonl --json
    ");
}

#[test]
fn generate() {
    assert_snapshot!(help(&["generate"]), @r#"
    Continue a text, or many

    A prompt is continued as it stands. A line of a prompts file is `{"prompt": "…"}`, or a record with
    `instruction` and perhaps `input`, which gets the text around it that the adapter was trained with.

    Usage: ferrotune generate [OPTIONS] <--prompt <P>|--prompts <F.jsonl>>

    Options:
          --model <M>
              Base model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or
              a .gguf file. May be left out with --adapter: then it is the one that the adapter was
              trained on

          --adapter <A>
              PEFT adapter's folder, such as a run's

          --load-in-4bit
              Quantize the model to NF4 with double quantization first, as a run by qlora does

          --prompt <P>
              Text to continue

          --prompts <F.jsonl>
              File with a prompt or a record on each line

          --max-new-tokens <N>
              Most tokens of an answer
              
              [default: 256]

          --temperature <T>
              0 takes the likeliest token; above 0 samples, the wilder the higher
              
              [default: 0]

          --top-k <K>
              Sample among the K likeliest tokens only

          --top-p <P>
              Sample among the likeliest tokens that make up this probability only

          --repetition-penalty <R>
              Divide the scores of tokens that stand in the text already; 1 changes nothing
              
              [default: 1]

          --seed <N>
              Seed of the sampling
              
              [default: 0]

          --json
              Print one JSON object for each prompt: prompt, text, tokens

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune generate --model smollm2-135m --prompt 'The capital of Vietnam is' --max-new-tokens 20
      ferrotune generate --adapter runs/quick-start --prompts datasets/orders/test.jsonl --json
    "#);
}

#[test]
fn decide() {
    assert_snapshot!(help(&["decide"]), @r"
    Ask the questions that tell whether to write a prompt, to retrieve, or to fine-tune

    Each question is answered with yes or no: by its flag, at the terminal, or by a line of standard
    input. What the answers rest on can be measured: see `ferrotune compare`.

    Usage: ferrotune decide [OPTIONS]

    Options:
          --knowledge <yes|no>
              Answers hold facts from documents, or facts that change

          --form <yes|no>
              A prompt with examples gives the form often enough

          --form-with-facts <yes|no>
              So does a prompt with the facts in it

          --volume <yes|no>
              There are more queries than the break-even of a long prompt

          --examples <yes|no>
              There are some hundred good examples

          --examples-with-facts <yes|no>
              There are some hundred, each with its facts

          --tree
              Print the tree and ask nothing

          --json
              Print JSON

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune decide
      ferrotune decide --knowledge yes --form-with-facts no --examples-with-facts yes
      ferrotune decide --knowledge no --form yes --volume no --json
      ferrotune decide --tree                     the whole tree, as a Mermaid flowchart
    ");
}

#[test]
fn compare() {
    assert_snapshot!(help(&["compare"]), @r"
    Try a prompt, retrieval and fine-tuning on one task, and measure each

    The task is a coffee shop's: an order becomes JSON with the price of each drink. Five approaches
    answer held-out orders, once while the menu holds and once after its prices have changed. The result
    is a table, a chart, what a query costs by the length of its prompt, and the number of queries from
    which on one approach costs less than another. What the costs assume is told, and can be changed.

    Most of the time goes into two trainings. It can be interrupted: what is finished is kept.

    Usage: ferrotune compare [OPTIONS]

    Options:
          --model <M>
              Model to try, which must have a chat template
              
              [default: smollm2-135m]

          --menu <DIR>
              Folder with menu.jsonl and menu-new.jsonl, the menu before and after
              
              [default: datasets/menu]

          --examples <N>
              Orders to train on
              
              [default: 1000]

          --orders <N>
              Held-out orders to answer
              
              [default: 60]

          --out <DIR>
              Folder for the trainings, report.json, table.md and chart.svg
              
              [default: runs/compare]

          --machine-hour <USD>
              Assumed: an hour of the machine, in US dollars
              
              [default: 0.1]

          --person-hour <USD>
              Assumed: an hour of work, in US dollars
              
              [default: 20]

          --prompt-hours <H>
              Assumed: hours to write a prompt
              
              [default: 1]

          --retrieval-hours <H>
              Assumed: hours to build the search
              
              [default: 4]

          --examples-hours <H>
              Assumed: hours to gather examples
              
              [default: 8]

          --json
              Print the report as JSON

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune compare
      ferrotune compare --examples 300 --orders 40 --out runs/compare-300
      ferrotune compare --machine-hour 0.5 --person-hour 60 --json
    ");
}

#[test]
fn chat() {
    assert_snapshot!(help(&["chat"]), @r"
    Talk to a model

    With a run's adapter, each line is put into the text that the run was trained with; else the model's
    own chat template is used. `/reset` forgets the talk, `/exit` ends it, Ctrl-C ends an answer.

    Usage: ferrotune chat [OPTIONS]

    Options:
          --model <M>
              Base model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or
              a .gguf file. May be left out with --adapter: then it is the one that the adapter was
              trained on

          --adapter <A>
              PEFT adapter's folder, such as a run's

          --load-in-4bit
              Quantize the model to NF4 with double quantization first, as a run by qlora does

          --max-new-tokens <N>
              Most tokens of an answer
              
              [default: 256]

          --temperature <T>
              0 takes the likeliest token; above 0 samples, the wilder the higher
              
              [default: 0]

          --top-k <K>
              Sample among the K likeliest tokens only

          --top-p <P>
              Sample among the likeliest tokens that make up this probability only

          --repetition-penalty <R>
              Divide the scores of tokens that stand in the text already; 1 changes nothing
              
              [default: 1]

          --seed <N>
              Seed of the sampling
              
              [default: 0]

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune chat --adapter runs/quick-start
      ferrotune chat --model smollm2-135m --temperature 0.7
    ");
}

#[test]
fn logits() {
    assert_snapshot!(help(&["logits"]), @r"
    Write a model's logits for given token ids, to compare with other implementations

    The output holds the tensors `logits.0`, `logits.1`, … in f32, one for each sequence, of shape
    [sequence, vocab].

    Usage: ferrotune logits [OPTIONS] --ids <F.json> --out <F.safetensors>

    Options:
          --model <M>
              Base model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or
              a .gguf file. May be left out with --adapter: then it is the one that the adapter was
              trained on

          --adapter <A>
              PEFT adapter's folder, such as a run's

          --load-in-4bit
              Quantize the model to NF4 with double quantization first, as a run by qlora does

          --ids <F.json>
              Token ids: [[int, …], …]

          --out <F.safetensors>
              File to write

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune logits --model smollm2-135m --ids ids.json --out logits.safetensors
    ");
}

#[test]
fn preview() {
    assert_snapshot!(help(&["preview"]), @r"
    Show the text that a run trains on, with the trained tokens marked

    Trained tokens are coloured on a terminal and stand between ⟦ and ⟧ elsewhere.

    Usage: ferrotune preview [OPTIONS] --model <M> --data <D>

    Options:
          --model <M>
              Model, for its tokenizer

          --data <D>
              Data: a .json or .jsonl file, or a folder of them

          --n <N>
              Examples shown
              
              [default: 3]

          --template <TEXT>
              Text of an example: alpaca, or the model's own chat template (chat)
              
              [default: alpaca]
              [possible values: alpaca, chat]

          --max-length <N>
              Tokens of an example; the rest is cut
              
              [default: 1024]

          --completion-only-loss
              Train on the output only, not on the prompt

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune preview --model smollm2-135m --data datasets/orders/train.jsonl
      ferrotune preview --model smollm2-135m --data train.jsonl --n 1 --completion-only-loss
      --max-length 512
    ");
}

#[test]
fn quantize() {
    assert_snapshot!(help(&["quantize"]), @r"
    Write a model as a bitsandbytes NF4 checkpoint that transformers loads

    Usage: ferrotune quantize [OPTIONS] --model <M> --out <DIR>

    Options:
          --model <M>              Model: an alias (smollm2-135m), hf:org/name[@revision], a folder with
                                   safetensors, or a .gguf file
          --out <DIR>              Folder to write; it must be new or empty
          --max-shard-size <SIZE>  Most bytes in one file; a larger model becomes several, with an index
                                   [default: 5GB]
      -h, --help                   Print help

    Examples:
      ferrotune quantize --model smollm2-135m --out models/smollm2-nf4
    ");
}

#[test]
fn merge() {
    assert_snapshot!(help(&["merge"]), @r"
    Add an adapter to the model's original weights and write the result as safetensors

    Then both are asked to go on with three short texts, and the greatest difference of two logits is
    told: between the base with its adapter and the merged model, and, where the adapter was trained
    beside 4-bit weights, between what was trained and what was merged.

    Usage: ferrotune merge [OPTIONS] --model <M> --adapter <A> --out <DIR>

    Options:
          --model <M>
              Base model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or
              a .gguf file

          --adapter <A>
              PEFT adapter's folder, such as a run's

          --out <DIR>
              Folder to write; it must be new or empty

          --dtype <TYPE>
              Type of the written weights
              
              [default: bf16]
              [possible values: f32, bf16, f16]

          --max-shard-size <SIZE>
              Most bytes in one file; a larger model becomes several, with an index
              
              [default: 5GB]

          --no-verify
              Skip the comparison of the result with base and adapter

          --json
              Print what the comparison found as JSON

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune merge --model smollm2-135m --adapter runs/quick-start --out models/orders
      ferrotune merge --model hf:HuggingFaceTB/SmolLM2-135M-Instruct --adapter runs/a --out models/a
      --dtype f32 --json
    ");
}

#[test]
fn fetch() {
    assert_snapshot!(help(&["fetch"]), @r"
    Fetch a model or a data set into the cache and print its path

    What is in the cache already is not sent again; a file that was cut off goes on where it was, and
    every file is held against its hash. HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what
    they mean for huggingface_hub, whose cache this is.

    Usage: ferrotune fetch <NAME>

    Arguments:
      <NAME>
              An alias (smollm2-135m), hf:org/name[@revision], or hf:org/name[@revision]:split for data

    Options:
      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune fetch smollm2-135m
      ferrotune fetch hf:HuggingFaceTB/SmolLM2-135M-Instruct
      ferrotune fetch hf:5CD-AI/Vietnamese-alpaca-gpt4-gg-translated:train
    ");
}

#[test]
fn gguf() {
    assert_snapshot!(help(&["gguf"]), @r"
    Write a model as a GGUF file for llama.cpp and what is built on it

    Usage: ferrotune gguf [OPTIONS] --model <M> --out <F.gguf>

    Options:
          --model <M>     Model: an alias (smollm2-135m), hf:org/name[@revision], a folder with
                          safetensors, or a .gguf file
          --out <F.gguf>  File to write; it must not be there yet
          --type <TYPE>   Type of the matrices [default: f16] [possible values: f16, bf16, q8_0, q4_0,
                          q4_k]
      -h, --help          Print help

    The file has the weights, the tokenizer and the chat template. In q4_0 and q4_k the head, which is
    the embeddings where a
    model has one matrix for both, is stored in 6 or 8 bits, as llama.cpp does it.

    Examples:
      ferrotune gguf --model models/orders --out orders.gguf
      ferrotune gguf --model models/orders --out orders-q4.gguf --type q4_0
    ");
}

#[test]
fn push() {
    assert_snapshot!(help(&["push"]), @r#"
    Put a model or an adapter onto the Hugging Face Hub

    The folder of a run, of `ferrotune merge` or of `ferrotune quantize` goes there in one commit, with
    its card, metrics and curve; checkpoints and hidden files stay. Files that are there with the same
    bytes are not sent again, so a push that was cut off goes on. A repository that is made for it is
    private unless --public is given.

    The token comes from HF_TOKEN, or from the file that `hf auth login` writes; it is never shown.

    One part of 64 MB is sent at a time. HF_XET_CLIENT_AC_MAX_UPLOAD_CONCURRENCY allows more, which
    takes more memory.

    Usage: ferrotune push [OPTIONS] --repo <org/name> <DIR>

    Arguments:
      <DIR>
              Folder to push

    Options:
          --repo <org/name>
              Repository on the Hub, as org/name or org/name@branch

          --private
              Make a new repository private, which is the default

          --public
              Make a new repository public

          --pull-request
              Open a pull request instead of changing the branch

          --message <TEXT>
              Title of the commit
              
              [default: "Upload with Ferrotune"]

          --json
              Print what was done as JSON

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune push runs/orders --repo me/orders-lora
      ferrotune push models/orders --repo me/orders --public
      ferrotune push models/orders --repo team/orders --pull-request --message "Trained on November's
      orders"
    "#);
}

#[test]
fn doctor() {
    assert_snapshot!(help(&["doctor"]), @r"
    Show what this machine has: cores, instruction sets, GPU, CUDA, Python, Jupyter, token

    Nothing is changed, and nothing is asked of the network.

    Usage: ferrotune doctor

    Options:
      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune doctor
      FERROTUNE_ISA=avx2 ferrotune doctor
    ");
}

#[test]
fn lab() {
    assert_snapshot!(help(&["lab"]), @r"
    Set up JupyterLab with the Rust kernel in `.venv`, build the book, and open the course

    To be run in a clone of the repository. The first time takes some minutes, later starts take
    seconds. The server listens on this machine only and asks for a token; Ctrl-C ends it.

    Usage: ferrotune lab [OPTIONS]

    Options:
          --no-open
              Do not open a browser

          --check
              Set everything up, run the notebook without a browser, and exit

          --notebook <FILE>
              The notebook to open (notebooks/en/sft.ipynb by default)

          --programs <FOLDER>
              Take the kernel and the program that builds the book from this folder instead of building
              them

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      ferrotune lab
      ferrotune lab --no-open                     print the address and leave the browser alone
      ferrotune lab --notebook notebooks/vi/sft.ipynb
      ferrotune lab --check                       set up, run the notebook in Jupyter, report, exit
    ");
}
