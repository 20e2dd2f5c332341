//! The training loop.

use super::adamw::{AdamW, Hyperparameters};
use super::checkpoint::{self, TrainerState};
use super::checks::{DivergenceCheck, GradientCheck, finite};
use super::clip::clip_grad_norm;
use super::config::Strategy;
use super::evaluation::evaluation_loss;
use super::loraplus;
use super::metrics::MetricsWriter;
use super::observer::{End, EvalMetrics, Event, Observer, Start, StepMetrics};
use super::sampler::{Sampler, StepRows};
use super::schedule::Schedule;
use super::session::{Session, Trained};
use crate::data::PromptFile;
use crate::model::{Batch, Gradients, Pass, export};
use crate::{Error, Result, device, files};
use candle_core::Tensor;
use std::path::PathBuf;
use std::time::Instant;

/// Trains until the last step or until `observer` asks to stop, and leaves the run's files in `output_dir`.
///
/// Errors: [`Error::Interrupted`] after a request to stop, with the checkpoint of the last finished step;
/// [`Error::Numeric`] when the numbers leave the range in which training can go on; [`Error::Write`].
pub fn run(session: &mut Session, observer: &mut dyn Observer) -> Result<End> {
    Run::begin(session, observer)?.train(observer)
}

struct Run<'s> {
    session: &'s Session,
    sampler: Sampler,
    schedule: Schedule,
    optimizer: AdamW,
    /// The model's own trained tensors, as the optimizer takes them.
    parameters: Vec<(String, Tensor)>,
    check: GradientCheck,
    divergence: DivergenceCheck,
    metrics: MetricsWriter,
    total_steps: usize,
    /// Finished steps.
    step: usize,
    saved: Option<PathBuf>,
    seconds: f64,
    tokens: usize,
}

impl<'s> Run<'s> {
    fn begin(session: &'s Session, observer: &mut dyn Observer) -> Result<Self> {
        let sft = &session.config.sft;
        let shuffle_seed = sft.shuffle.then_some(session.config.seed);
        let sampler = Sampler::new(
            session.rows.len(),
            sft.per_device_train_batch_size,
            sft.gradient_accumulation_steps,
            shuffle_seed,
        );
        let by_epochs = (sft.num_train_epochs * sampler.steps_per_epoch() as f64).ceil() as usize;
        let total_steps = sft.max_steps.unwrap_or(by_epochs).max(1);
        let parameters: Vec<(String, Tensor)> =
            session.decoder.parameters().iter().map(|p| (p.name.clone(), p.value.clone())).collect();
        let hyper = Hyperparameters {
            beta1: sft.adam_beta1,
            beta2: sft.adam_beta2,
            eps: sft.adam_epsilon,
            weight_decay: sft.weight_decay,
        };
        let mut optimizer = AdamW::new(&parameters, hyper)?;
        if let Some(ratio) = sft.loraplus_lr_ratio {
            optimizer.set_rates(loraplus::rates(&parameters, ratio));
        }
        let saved = session.config.checkpoint()?;
        let step = match &saved {
            Some(path) => checkpoint::load(path, session.decoder.parameters(), &mut optimizer)?.global_step,
            None => 0,
        };
        let output_dir = &session.config.output_dir;
        files::create_directory(output_dir)?;
        files::write_atomic(&output_dir.join("config.toml"), session.config.to_toml().as_bytes())?;
        let prompt =
            PromptFile { template: session.config.template.name().into(), instruction: session.instruction.clone() };
        prompt.save(output_dir)?;
        let start = Start {
            total_steps,
            resumed_step: step,
            examples: session.examples.len(),
            rows: session.rows.len(),
            tokens: session.examples.iter().map(|e| e.ids.len()).sum(),
            trainable_parameters: session.decoder.parameters().element_count(),
            total_parameters: session.total_parameters(),
            device: device::describe(session.decoder.device()),
        };
        observer.event(&Event::Start(&start));
        Ok(Self {
            session,
            sampler,
            schedule: Schedule::new(sft.lr_scheduler_type, sft.warmup_ratio, total_steps),
            optimizer,
            parameters,
            check: GradientCheck::new(session.decoder.parameters()),
            divergence: DivergenceCheck::default(),
            metrics: MetricsWriter::open(output_dir, step)?,
            total_steps,
            step,
            saved,
            seconds: 0.0,
            tokens: 0,
        })
    }

    fn train(mut self, observer: &mut dyn Observer) -> Result<End> {
        while self.step < self.total_steps {
            let rows = self.sampler.step(self.step);
            let started = Instant::now();
            let Some(mut metrics) = self.optimize(&rows, observer)? else {
                return self.interrupted(observer);
            };
            let seconds = started.elapsed().as_secs_f64();
            self.step += 1;
            self.seconds += seconds;
            self.tokens += metrics.num_tokens;
            metrics.tokens_per_second = metrics.num_tokens as f64 / seconds;
            metrics.peak_rss_bytes = device::peak_rss_bytes();
            self.metrics.row(&metrics)?;
            observer.event(&Event::Step(&metrics));
            let (eval, save) = (self.session.config.sft.eval_strategy, self.session.config.sft.save_strategy);
            if self.due(eval, self.session.config.sft.eval_steps) {
                self.evaluate(observer)?;
            }
            if self.due(save, self.session.config.sft.save_steps) {
                self.save(observer)?;
            }
        }
        let output_dir = &self.session.config.output_dir;
        checkpoint::save_weights(output_dir, &self.session.trained, self.session.decoder.parameters())?;
        if matches!(self.session.trained, Trained::Weights) {
            let mut config = export::config_object(&self.session.pretrained);
            export::set_dtype(&mut config, "float32");
            export::write_companions(&self.session.pretrained, config, output_dir)?;
        }
        let end = self.end(false);
        observer.event(&Event::End(&end));
        Ok(end)
    }

    /// One optimizer step; `None` if it was asked to stop before the step was made.
    fn optimize(&mut self, rows: &StepRows, observer: &dyn Observer) -> Result<Option<StepMetrics>> {
        let device = self.session.decoder.device().clone();
        device::awake(&device, || self.optimize_here(rows, observer))
    }

    fn optimize_here(&mut self, rows: &StepRows, observer: &dyn Observer) -> Result<Option<StepMetrics>> {
        let sft = &self.session.config.sft;
        let decoder = &self.session.decoder;
        let number = self.step + 1;
        let batches = rows.micro_batches.iter().map(|rows| self.session.batch(rows)).collect::<Result<Vec<Batch>>>()?;
        let trained: usize = batches.iter().map(Batch::trained_tokens).sum();
        let mut gradients = Gradients::new(decoder.parameters());
        let mut loss_sum = 0.0;
        for (index, batch) in batches.iter().enumerate() {
            if observer.cancelled() {
                return Ok(None);
            }
            let stream = ((self.step as u64) << 20) | index as u64;
            let pass = Pass {
                dropout_seed: Some(self.session.config.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(stream)),
                neftune_noise_alpha: sft.neftune_noise_alpha.unwrap_or(0.0),
                gradient_checkpointing: sft.gradient_checkpointing,
                scale: 1.0 / trained.max(1) as f64,
            };
            loss_sum += decoder.loss_and_gradients(batch, pass, &mut gradients)?.loss_sum;
        }
        let loss = loss_sum / trained.max(1) as f64;
        finite("loss", loss, number)?;
        self.divergence.step(loss, number)?;
        let learning_rate = sft.learning_rate * self.schedule.factor(self.step);
        let mut gradients = gradients.into_tensors(decoder.parameters())?;
        self.check.step(decoder.parameters(), &gradients, learning_rate)?;
        let max_norm = if sft.max_grad_norm > 0.0 { sft.max_grad_norm } else { f64::INFINITY };
        let grad_norm = clip_grad_norm(&mut gradients, max_norm)?;
        finite("gradient norm", grad_norm, number)?;
        self.optimizer.step(&self.parameters, &gradients, learning_rate)?;
        Ok(Some(StepMetrics {
            step: number,
            total_steps: self.total_steps,
            epoch: self.epoch(number),
            loss,
            grad_norm,
            learning_rate,
            num_tokens: batches.iter().map(Batch::tokens).sum(),
            ..StepMetrics::default()
        }))
    }

    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let started = Instant::now();
        let tokens = self.session.config.sft.max_length * self.session.config.sft.per_device_train_batch_size;
        let session = self.session;
        let cancelled = || observer.cancelled();
        let Some(output) = evaluation_loss(&session.decoder, &session.eval_examples, tokens, &cancelled)? else {
            return Ok(());
        };
        let metrics = EvalMetrics {
            step: self.step,
            epoch: self.epoch(self.step),
            eval_loss: output.loss_sum / output.count.max(1) as f64,
            eval_tokens: output.count,
            eval_seconds: started.elapsed().as_secs_f64(),
        };
        self.metrics.row(&metrics)?;
        observer.event(&Event::Eval(&metrics));
        Ok(())
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let output_dir = &self.session.config.output_dir;
        let state = TrainerState {
            global_step: self.step,
            epoch: self.epoch(self.step),
            max_steps: self.total_steps,
            seed: self.session.config.seed,
            files: Default::default(),
        };
        let (trained, parameters) = (&self.session.trained, self.session.decoder.parameters());
        let path = checkpoint::save(output_dir, &state, trained, parameters, &self.optimizer)?;
        checkpoint::rotate(output_dir, self.session.config.sft.save_total_limit)?;
        observer.event(&Event::Checkpoint(&path));
        self.saved = Some(path);
        Ok(())
    }

    fn interrupted(mut self, observer: &mut dyn Observer) -> Result<End> {
        if self.step > 0 {
            self.save(observer)?;
        }
        observer.event(&Event::End(&self.end(true)));
        Err(Error::Interrupted { saved: self.saved })
    }

    fn due(&self, strategy: Strategy, every: usize) -> bool {
        let last = self.step == self.total_steps;
        match strategy {
            Strategy::No => false,
            Strategy::Steps => last || self.step.is_multiple_of(every),
            Strategy::Epoch => last || self.step.is_multiple_of(self.sampler.steps_per_epoch()),
        }
    }

    fn epoch(&self, step: usize) -> f64 {
        step as f64 / self.sampler.steps_per_epoch() as f64
    }

    fn end(&self, interrupted: bool) -> End {
        End {
            step: self.step,
            total_steps: self.total_steps,
            interrupted,
            train_seconds: self.seconds,
            tokens_per_second: if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 },
            peak_rss_bytes: device::peak_rss_bytes(),
        }
    }
}
