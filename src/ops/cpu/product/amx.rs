//! The kernel for AMX-BF16: 32 x 32 sums in four of the eight tile registers, two tiles of each factor in the others.
//!
//! A step of the inner loop takes 32 elements of the rows of the left factor, read where they lie, and as many rows of the
//! panel, whose pairs of rows are what a tile wants: four products for four loads. Rows that do not fill a register go
//! through a small buffer filled up with zeros.
//!
//! The schedule is written against [`Tiles`], so that a machine without the instructions runs it, too, on [`Emulated`]
//! registers. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

use super::avx512bf16::Avx512Bf16;
use super::kernel::{Kernel, Out, Rows, TileRow, WIDTH, panel_len};
use super::result::{Old, put};
use super::source::Source;
use crate::ops::cpu::simd::vectorized;
use half::bf16;
use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

/// Rows of a register.
const ROWS: usize = 16;
/// Elements of bf16 in a row of a register.
const STEP: usize = 32;
/// Bytes of a row of a register.
const ROW_BYTES: usize = 64;

/// Rows that are filled up with zeros.
type Filled = [[bf16; STEP]; 2 * ROWS];

/// The eight tile registers of a thread: 16 rows of 64 bytes.
pub(crate) trait Tiles {
    /// Makes the registers ready for the calling thread, unless they are.
    fn start() -> Self;

    /// Sets register T to zero.
    fn zero<const T: usize>(&mut self);

    /// Loads register T: 16 rows of 32 numbers, which start `stride` numbers apart.
    ///
    /// # Safety
    /// The numbers exist.
    unsafe fn load<const T: usize>(&mut self, from: *const bf16, stride: usize);

    /// Loads register T: 16 rows of 16 sums, which start `stride` numbers apart.
    ///
    /// # Safety
    /// The numbers exist.
    unsafe fn load_sums<const T: usize>(&mut self, from: *const f32, stride: usize);

    /// Adds to register C the products of registers A and B: `c[i][j] += Σ a[i][l]·b[l / 2][2j + l % 2]`.
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self);

    /// Stores register T, 16 rows of 16 numbers, which start `stride` numbers apart.
    ///
    /// # Safety
    /// The numbers exist, and nobody else has them.
    unsafe fn store<const T: usize>(&self, to: *mut f32, stride: usize);
}

/// The processor's: ready while one of these lives on the thread.
pub(crate) struct Hardware {
    /// Registers are a thread's own.
    not_send: PhantomData<*const ()>,
}

thread_local! {
    /// How many [`Hardware`] live on this thread.
    static HOLDERS: Cell<usize> = const { Cell::new(0) };
}

impl Hardware {
    /// Whether the processor has them and the operating system lets this process use them. Linux wants to be asked first
    /// (`arch_prctl`, `ARCH_REQ_XCOMP_PERM`), once for all threads.
    pub(crate) fn is_allowed() -> bool {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        *ALLOWED.get_or_init(|| {
            const ARCH_PRCTL: usize = 158;
            const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
            const TILE_DATA: usize = 18;
            if !cfg!(target_os = "linux") || !crate::device::Isa::Amx.is_present() {
                return false;
            }
            let result: isize;
            // SAFETY: a system call with two integers, which reads and writes no memory of this process; the kernel keeps all
            // registers but those named here.
            unsafe {
                asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") TILE_DATA,
                    out("rcx") _, out("r11") _, options(nostack));
            }
            result == 0
        })
    }
}

/// What `ldtilecfg` reads: palette 1, and for each register the bytes of a row and the rows.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < 8 {
        row_bytes[i] = ROW_BYTES as u16;
        rows[i] = ROWS as u8;
        i += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

impl Tiles for Hardware {
    fn start() -> Self {
        let holders = HOLDERS.get();
        HOLDERS.set(holders + 1);
        if holders > 0 {
            return Self { not_send: PhantomData };
        }
        // SAFETY: only `Amx::new` makes a kernel that gets here, and only where the processor has the instructions and the
        // operating system allows them. The configuration is 64 bytes of a valid palette.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly, preserves_flags))
        };
        Self { not_send: PhantomData }
    }

    #[inline(always)]
    fn zero<const T: usize>(&mut self) {
        // SAFETY: `self` proves that the registers are ready; the compiler keeps nothing in them.
        unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, nomem, preserves_flags)) };
    }

    /// # Safety
    /// As the trait's.
    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const bf16, stride: usize) {
        // SAFETY: as for `zero`; the numbers exist, which the caller promises.
        unsafe {
            asm!("tileloadd tmm{t}, [{from} + {stride}*1]", t = const T, from = in(reg) from,
                stride = in(reg) stride * size_of::<bf16>(), options(nostack, readonly, preserves_flags));
        }
    }

    /// # Safety
    /// As the trait's.
    #[inline(always)]
    unsafe fn load_sums<const T: usize>(&mut self, from: *const f32, stride: usize) {
        // SAFETY: as for `load`: two numbers of bf16 take the bytes of one sum.
        unsafe { self.load::<T>(from.cast(), 2 * stride) };
    }

    #[inline(always)]
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: as for `zero`.
        unsafe {
            asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
                options(nostack, nomem, preserves_flags));
        }
    }

    /// # Safety
    /// As the trait's.
    #[inline(always)]
    unsafe fn store<const T: usize>(&self, to: *mut f32, stride: usize) {
        // SAFETY: as for `zero`; the numbers are the caller's, who promises it.
        unsafe {
            asm!("tilestored [{to} + {stride}*1], tmm{t}", t = const T, to = in(reg) to,
                stride = in(reg) stride * size_of::<f32>(), options(nostack, preserves_flags));
        }
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        HOLDERS.set(HOLDERS.get() - 1);
        if HOLDERS.get() > 0 {
            return;
        }
        // SAFETY: as for `zero`. A thread that leaves its registers in use makes every switch to another one slower.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// AMX on registers of this kind.
#[derive(Debug)]
pub(crate) struct Amx<U>(PhantomData<fn() -> U>);

impl<U> Clone for Amx<U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<U> Copy for Amx<U> {}

impl Amx<Hardware> {
    /// `None` where the processor or the operating system says no.
    pub(crate) fn new() -> Option<Self> {
        Hardware::is_allowed().then_some(Self(PhantomData))
    }
}

impl<U: Tiles> Kernel for Amx<U> {
    type Number = bf16;

    const HEIGHT: usize = 2 * ROWS;
    const GROUP: usize = 2;
    const DEPTH: usize = STEP;
    /// Half of the second-level cache that every processor with AMX has.
    const PACKED: usize = (1 << 20) / size_of::<bf16>();

    type Hold = U;

    fn hold(self) -> U {
        U::start()
    }

    fn tile(self, [rows, columns]: [usize; 2], terms: &[Rows<bf16>], panels: &[bf16], out: Out, old: Old) {
        assert!((1..=Self::HEIGHT).contains(&rows) && terms.iter().all(|t| t.hold(rows)), "rows outside their matrix");
        assert!(terms.iter().all(|t| t.k.is_multiple_of(STEP)), "a part of a step");
        assert!(terms.iter().map(|t| panel_len::<Self>(t.k)).sum::<usize>() <= panels.len(), "a panel is too short");
        assert!(out.hold(rows), "rows outside the result");
        let mut tiles = U::start();
        let mut schedule = Schedule { tiles: &mut tiles, two_down: rows > ROWS, two_across: columns > ROWS };
        if !rows.is_multiple_of(ROWS) {
            return schedule.few_rows(rows, terms, panels, out, old);
        }
        if old == Old::Add {
            // SAFETY: `rows`, 16 or 32 as the schedule knows, lie in `out`, by the assertion above.
            unsafe { schedule.load_sums(out.values.as_ptr(), out.stride) };
        } else {
            schedule.zero();
        }
        let mut panel = panels;
        for term in terms {
            let (now, later) = panel.split_at(panel_len::<Self>(term.k));
            panel = later;
            for (first, panel) in (0..term.k).step_by(STEP).zip(now.chunks_exact(STEP * WIDTH)) {
                // SAFETY: row `i` of the term exists for each i below `rows`, which is 16 or 32, and has elements `first`
                // to `first + 31`, because `k` is whole steps.
                unsafe { schedule.step(term.data.as_ptr().add(first), term.stride, panel) };
            }
        }
        // SAFETY: as for `load_sums`; `out` is held mutably.
        unsafe { schedule.store_sums(out.values.as_mut_ptr(), out.stride) };
    }

    fn pack_rows(self, w: &Source<bf16>, row: usize, panel: &mut [bf16]) -> bool {
        let (whole, rest) = panel.split_at_mut(panel_len::<Avx512Bf16>(w.cols));
        rest.fill(bf16::ZERO);
        Avx512Bf16::new().is_some_and(|kernel| kernel.pack_rows(w, row, whole))
    }

    fn pack_columns(self, w: &Source<bf16>, column: usize, panel: &mut [bf16]) -> bool {
        let (whole, rest) = panel.split_at_mut(panel_len::<Avx512Bf16>(w.rows));
        rest.fill(bf16::ZERO);
        Avx512Bf16::new().is_some_and(|kernel| kernel.pack_columns(w, column, whole))
    }

    fn add_dots(self, a: &Rows<bf16>, w: &Source<bf16>, rows: Range<usize>, sums: &mut [TileRow]) -> bool {
        Avx512Bf16::new().is_some_and(|kernel| kernel.add_dots(a, w, rows, sums))
    }
}

/// Registers 0 to 3 hold the sums, 4 and 5 rows of the left factor, 6 and 7 columns of the right one.
struct Schedule<'a, U> {
    tiles: &'a mut U,
    /// More than 16 rows.
    two_down: bool,
    /// More than 16 columns.
    two_across: bool,
}

impl<U: Tiles> Schedule<'_, U> {
    fn zero(&mut self) {
        self.tiles.zero::<0>();
        self.tiles.zero::<1>();
        self.tiles.zero::<2>();
        self.tiles.zero::<3>();
    }

    /// Adds the products of 32 elements of each row of the left factor and the first 32 rows of `panel`.
    ///
    /// # Safety
    /// There are as many rows as `two_down` says, of 32 elements, from `left` on, `stride` apart.
    #[inline(always)]
    unsafe fn step(&mut self, left: *const bf16, stride: usize, panel: &[bf16]) {
        let panel = panel[..STEP * WIDTH].as_ptr();
        // SAFETY: a pair of rows of the panel is 64 numbers, 32 for each half of its columns; 16 pairs are in bounds by the
        // line above. The left factor's rows are promised by the caller.
        unsafe {
            self.tiles.load::<4>(left, stride);
            self.tiles.load::<6>(panel, 2 * WIDTH);
            self.tiles.multiply::<0, 4, 6>();
            if self.two_across {
                self.tiles.load::<7>(panel.add(STEP), 2 * WIDTH);
                self.tiles.multiply::<1, 4, 7>();
            }
            if self.two_down {
                self.tiles.load::<5>(left.add(ROWS * stride), stride);
                self.tiles.multiply::<2, 5, 6>();
                if self.two_across {
                    self.tiles.multiply::<3, 5, 7>();
                }
            }
        }
    }

    /// [`Kernel::tile`] for rows that do not fill their registers.
    #[cold]
    fn few_rows(&mut self, rows: usize, terms: &[Rows<bf16>], panels: &[bf16], out: Out, old: Old) {
        let mut filled: Filled = [[bf16::ZERO; STEP]; 2 * ROWS];
        self.zero();
        let mut panels = panels.chunks_exact(STEP * WIDTH);
        for term in terms {
            for (first, panel) in (0..term.k).step_by(STEP).zip(&mut panels) {
                for (i, filled) in filled.iter_mut().enumerate().take(rows) {
                    filled.copy_from_slice(&term.row(i)[first..first + STEP]);
                }
                // SAFETY: `filled` has 32 rows of 32 elements.
                unsafe { self.step(filled.as_flattened().as_ptr(), STEP, panel) };
            }
        }
        let mut sums = [[0.; WIDTH]; 2 * ROWS];
        // SAFETY: 32 rows of 32 numbers, of which the schedule writes the first 16 or all.
        unsafe { self.store_sums(sums.as_flattened_mut().as_mut_ptr(), WIDTH) };
        vectorized(
            #[inline(always)]
            || {
                for (i, sums) in sums[..rows].iter().enumerate() {
                    put(&mut out.values[i * out.stride..][..WIDTH], sums, 1., old);
                }
            },
        );
    }

    /// The sums become the numbers at `from`.
    ///
    /// # Safety
    /// There are as many rows as `two_down` says, of 32 numbers, from `from` on, `stride` apart.
    unsafe fn load_sums(&mut self, from: *const f32, stride: usize) {
        // SAFETY: promised by the caller; a register has the first or the second 16 of 16 rows.
        unsafe {
            self.tiles.load_sums::<0>(from, stride);
            self.tiles.load_sums::<1>(from.add(ROWS), stride);
            if self.two_down {
                self.tiles.load_sums::<2>(from.add(ROWS * stride), stride);
                self.tiles.load_sums::<3>(from.add(ROWS * stride + ROWS), stride);
            }
        }
    }

    /// Writes the sums.
    ///
    /// # Safety
    /// As for [`Self::load_sums`], and nobody else has the numbers.
    unsafe fn store_sums(&self, to: *mut f32, stride: usize) {
        // SAFETY: as there.
        unsafe {
            self.tiles.store::<0>(to, stride);
            self.tiles.store::<1>(to.add(ROWS), stride);
            if self.two_down {
                self.tiles.store::<2>(to.add(ROWS * stride), stride);
                self.tiles.store::<3>(to.add(ROWS * stride + ROWS), stride);
            }
        }
    }
}

/// Tile registers in memory, for tests.
#[cfg(test)]
pub(crate) struct Emulated {
    rows: [[[u32; ROW_BYTES / 4]; ROWS]; 8],
}

#[cfg(test)]
impl Tiles for Emulated {
    fn start() -> Self {
        // No register may be used before it was loaded or set to zero: this is a NaN, in f32 and in bf16.
        Self { rows: [[[0x7fc0_7fc0; ROW_BYTES / 4]; ROWS]; 8] }
    }

    fn zero<const T: usize>(&mut self) {
        self.rows[T] = Default::default();
    }

    /// # Safety
    /// As the trait's.
    unsafe fn load<const T: usize>(&mut self, from: *const bf16, stride: usize) {
        for (i, row) in self.rows[T].iter_mut().enumerate() {
            for (j, word) in row.iter_mut().enumerate() {
                // SAFETY: the caller promises that the numbers exist.
                let [low, high] = [0, 1].map(|half| unsafe { from.add(i * stride + 2 * j + half).read() });
                *word = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
            }
        }
    }

    /// # Safety
    /// As the trait's.
    unsafe fn load_sums<const T: usize>(&mut self, from: *const f32, stride: usize) {
        for (i, row) in self.rows[T].iter_mut().enumerate() {
            // SAFETY: the caller promises that the numbers exist.
            row.iter_mut()
                .enumerate()
                .for_each(|(j, word)| *word = unsafe { from.add(i * stride + j).read() }.to_bits());
        }
    }

    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        let pair = |word: u32| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)];
        for i in 0..ROWS {
            for (l, a) in self.rows[A][i].into_iter().enumerate() {
                for j in 0..ROW_BYTES / 4 {
                    let ([a0, a1], [b0, b1]) = (pair(a), pair(self.rows[B][l][j]));
                    let sum = f32::from_bits(self.rows[C][i][j]);
                    self.rows[C][i][j] = (sum + a0 * b0 + a1 * b1).to_bits();
                }
            }
        }
    }

    /// # Safety
    /// As the trait's.
    unsafe fn store<const T: usize>(&self, to: *mut f32, stride: usize) {
        for (i, row) in self.rows[T].iter().enumerate() {
            for (j, word) in row.iter().enumerate() {
                // SAFETY: the caller promises that the numbers are there to write.
                unsafe { to.add(i * stride + j).write(f32::from_bits(*word)) };
            }
        }
    }
}

#[cfg(test)]
impl Amx<Emulated> {
    pub(crate) fn emulated() -> Self {
        Self(PhantomData)
    }
}
