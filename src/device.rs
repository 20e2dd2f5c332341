//! Which device, and what this machine has. Nothing here prints.

mod isa;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;

use crate::{Error, Result};
pub use isa::Isa;

/// What the caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// CUDA where it is built in and a device answers, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// A device and the reason for it, a phrase that follows "device: …".
#[derive(Clone, Debug)]
pub struct Choice {
    pub device: Device,
    pub reason: String,
}

/// Chooses where to compute.
///
/// Errors: [`Error::Config`] if [`Wanted::Cuda`] cannot be had; the other two always succeed.
pub fn choose(wanted: Wanted) -> Result<Choice> {
    let cpu = |reason: String| Choice { device: Device::Cpu, reason };
    if wanted == Wanted::Cpu {
        return Ok(cpu("the CPU, as asked".into()));
    }
    match cuda() {
        Ok(device) => Ok(Choice { device, reason: "the first CUDA device".into() }),
        Err(why) if wanted == Wanted::Auto => Ok(cpu(format!("the CPU, because {why}"))),
        Err(why) => Err(Error::config("", format!("CUDA cannot be used: {why}"), "Run without it to use the CPU.")),
    }
}

fn cuda() -> std::result::Result<Device, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err("this build has no CUDA (feature `cuda`)".into());
    }
    // The CUDA bindings panic where the driver's library is absent, so its device files are looked for first.
    if !["/dev/nvidiactl", "/dev/dxg"].iter().any(|file| std::path::Path::new(file).exists()) {
        return Err("no NVIDIA driver is loaded".into());
    }
    Device::new_cuda(0).map_err(|e| format!("no CUDA device answers ({e})"))
}

/// Runs `body` on a thread of rayon's pool; within it, on the thread that it is called from.
///
/// Outside the pool, each parallel operation puts the calling thread to sleep and wakes it again, which takes as long as a
/// product of one token; and memory that one thread frees is no use to another. So a program enters the pool once, for
/// all that it computes.
pub fn on_pool<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| body())
}

/// Runs `body`, which computes on `device`, and for the CPU keeps the other threads of the pool that it is called from awake
/// meanwhile.
///
/// A step is some thousand parallel operations, many shorter than the time in which a sleeping thread wakes up, least of all
/// in a virtual machine. Here they look for work without a pause until `body` returns; a program does this for work
/// that wants the whole processor, not while it waits for something. Outside the pool, and with one thread, it only runs `body`.
pub fn awake<R>(device: &Device, body: impl FnOnce() -> R) -> R {
    let Some(here) = rayon::current_thread_index().filter(|_| device.is_cpu()) else { return body() };
    let watch = Arc::new(Watch::default());
    let ends = EndOfWatch(watch.clone());
    rayon::spawn_broadcast(move |context| {
        if context.index() != here {
            watch.keep();
        }
    });
    ends.0.begin(rayon::current_num_threads() - 1);
    body()
}

/// What the threads of [`awake`] share.
#[derive(Default)]
struct Watch {
    done: AtomicBool,
    watching: AtomicUsize,
}

impl Watch {
    /// Waits until the `others` keep the watch, or ends it if they do not come soon, because they have work of somebody else's.
    ///
    /// A job may take the watch up while it waits for a part of itself, and must not be one that the watch waits for. So no
    /// job of `body` may exist before every thread watches; and no watch outlives its `body`.
    fn begin(&self, others: usize) {
        const PATIENCE: Duration = Duration::from_millis(1);
        let begun = Instant::now();
        while self.watching.load(Ordering::SeqCst) < others {
            if begun.elapsed() > PATIENCE {
                return self.done.store(true, Ordering::SeqCst);
            }
            std::thread::yield_now();
        }
    }

    /// Looks for work until the watch ends.
    fn keep(&self) {
        self.watching.fetch_add(1, Ordering::SeqCst);
        // Long enough for what a step does on one thread; then the processor is offered to other programs.
        const PATIENCE: usize = 2000;
        let mut idle = 0;
        while !self.done.load(Ordering::SeqCst) {
            match rayon::yield_now() {
                Some(rayon::Yield::Executed) => idle = 0,
                _ if idle < PATIENCE => {
                    idle += 1;
                    std::hint::spin_loop();
                }
                _ => std::thread::yield_now(),
            }
        }
        self.watching.fetch_sub(1, Ordering::SeqCst);
    }
}

struct EndOfWatch(Arc<Watch>);

impl Drop for EndOfWatch {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::SeqCst);
        while self.0.watching.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
    }
}

/// A device in words, with the threads that a CPU computes on.
pub fn describe(device: &Device) -> String {
    match device {
        Device::Cpu => format!("CPU, {} threads", rayon::current_num_threads()),
        Device::Cuda(_) => "CUDA".into(),
        Device::Metal(_) => "Metal".into(),
    }
}

/// What this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name, where the system tells.
    pub processor: Option<String>,
    /// Threads that this process may use.
    pub cores: usize,
    /// The instruction sets that it has, of those that products are written for.
    pub instruction_sets: Vec<Isa>,
    /// Bytes of memory, where the system tells.
    pub memory_total: Option<u64>,
    /// Bytes that a new program can take without swapping, where the system tells.
    pub memory_available: Option<u64>,
}

/// Looks at this machine.
pub fn machine() -> Machine {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Machine {
        processor: line(&cpuinfo, "model name").map(Into::into),
        cores: std::thread::available_parallelism().map_or(1, Into::into),
        instruction_sets: Isa::ALL.into_iter().filter(|isa| isa.is_present()).collect(),
        memory_total: kilobytes(&meminfo, "MemTotal"),
        memory_available: kilobytes(&meminfo, "MemAvailable"),
    }
}

/// The most memory that this process has ever held, in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    status("VmHWM")
}

/// The memory that this process holds now, in bytes; 0 where the system does not tell.
pub fn rss_bytes() -> u64 {
    status("VmRSS")
}

/// The memory that a piece of work takes.
#[derive(Debug)]
pub struct MemoryWatch {
    before: u64,
}

impl MemoryWatch {
    /// Watches from here on. The peak of this process is forgotten, which [`peak_rss_bytes`] notices, too.
    pub fn begin() -> Self {
        // 5 is what Linux's proc(5) has for "reset the peak". Elsewhere, and where it is refused, `peak` tells nothing.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Self { before: rss_bytes() }
    }

    /// The most memory that the process has held since, above what it held before, in bytes; `None` where the system does not tell.
    pub fn peak(&self) -> Option<u64> {
        let peak = peak_rss_bytes();
        (peak > 0).then(|| peak.saturating_sub(self.before))
    }
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, key).unwrap_or(0)
}

/// The value of `key : value` in a file of /proc.
fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// Linux writes `kB` and means 1024 bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    line(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    /// Many short watches, each begun while threads may still be in the one before, with nested parallel work in each.
    #[test]
    fn work_is_done_whatever_the_other_threads_watch() {
        for threads in [1, 2, 3, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                for round in 0..2000 {
                    let inner = |i: u32| (0..20u32).into_par_iter().map(|j| i * j).sum::<u32>();
                    let sum: u32 = awake(&Device::Cpu, || (0..6u32).into_par_iter().with_max_len(1).map(inner).sum());
                    assert_eq!(sum, 15 * 190, "round {round} of {threads} threads");
                }
            });
        }
        assert_eq!(awake(&Device::Cpu, || 7), 7, "outside a pool");
    }

    #[test]
    fn proc_files_are_read_by_key() {
        let text = "MemTotal:       16384 kB\nMemTotalish:  1 kB\nmodel name\t: A: B\n";
        assert_eq!(kilobytes(text, "MemTotal"), Some(16384 * 1024));
        assert_eq!(kilobytes(text, "MemFree"), None);
        assert_eq!(line(text, "model name"), Some("A: B"));
    }

    #[test]
    fn the_cpu_is_always_there_and_says_why() {
        let choice = choose(Wanted::Cpu);
        assert!(choice.is_ok_and(|c| c.device.is_cpu() && !c.reason.is_empty()));
        assert!(choose(Wanted::Auto).is_ok());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_counted_in_bytes() {
        let (peak, now) = (peak_rss_bytes(), rss_bytes());
        assert!(peak >= now / 2 && now > 1 << 20, "peak {peak}, now {now}");
        assert!(machine().memory_total.is_some_and(|total| total > peak));
    }

    /// Other tests run beside this one, so only what must be there at least is asked for.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_watch_sees_what_is_taken_and_given_back() {
        let watch = MemoryWatch::begin();
        let taken = vec![1u8; 256 << 20];
        assert_eq!(taken.iter().step_by(4096).map(|b| u64::from(*b)).sum::<u64>(), 65536);
        drop(taken);
        assert!(watch.peak().is_some_and(|peak| peak > 128 << 20), "{:?}", watch.peak());
    }
}
