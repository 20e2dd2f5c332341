//! Puts a value that an op has computed into candle's own graph, with the op's hand-written backward.
//!
//! The trainer composes the ops by hand and needs no graph. Whoever builds a model out of candle tensors uses an op's
//! `apply`, which calls [`attach`]: candle's `Tensor::backward` then runs the hand-written backward instead of
//! differentiating what the forward did.

use crate::error::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Error as CandleError, Layout, Result as CandleResult,
    Shape, Storage, Tensor,
};

type Backward = dyn Fn(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync;

/// Makes `output` a node of candle's graph whose parents are `inputs`.
///
/// - `inputs` one to three tensors, all on the device of `output`
/// - `output` the value of the node; copied once
/// - `backward` maps the gradient of the output (its shape and type) to one gradient per input, in order; `None` where
///   there is none. It should capture what it needs detached, or the values it computes grow a graph of their own.
/// - returns a tensor equal to `output`
///
/// Errors: [`Error::Shape`] for another number of inputs; [`Error::Candle`] if the devices differ. A `backward` that
/// fails or returns another number of gradients makes candle's `backward` fail.
///
/// ```
/// # use ferrotune::candle_core::{Device, Tensor, Var};
/// let x = Var::new(&[1f32, 2., 3.], &Device::Cpu)?;
/// let y = x.as_detached_tensor().sqr()?;
/// let twice = (x.as_detached_tensor() * 2.)?;
/// let y = ferrotune::ops::graph::attach(&[x.as_tensor()], y, move |dy| Ok(vec![Some(dy.mul(&twice)?)]))?;
/// let gradients = y.sum_all()?.backward()?;
/// assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>()?, [2., 4., 6.]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn attach(
    inputs: &[&Tensor],
    output: Tensor,
    backward: impl Fn(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
) -> Result<Tensor> {
    // A node owns its storage from the first element on, so a view into the middle of another tensor is copied out.
    let plain = output.is_contiguous() && output.layout().start_offset() == 0;
    let output = if plain { output.detach() } else { output.force_contiguous()?.detach() };
    let node = Node { output, backward: Box::new(backward) };
    Ok(match inputs {
        [a] => a.apply_op1(node)?,
        [a, b] => a.apply_op2(b, node)?,
        [a, b, c] => a.apply_op3(b, c, node)?,
        _ => {
            let what = format!("a node of candle's graph has one to three inputs, not {}", inputs.len());
            return Err(Error::Shape { op: NAME, what });
        }
    })
}

const NAME: &str = "ops::graph::attach";

struct Node {
    output: Tensor,
    backward: Box<Backward>,
}

impl Node {
    fn cpu(&self) -> CandleResult<(CpuStorage, Shape)> {
        let (storage, layout) = self.output.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => Err(self.other_device()),
        }
    }

    fn cuda(&self) -> CandleResult<(CudaStorage, Shape)> {
        let (storage, layout) = self.output.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => Err(self.other_device()),
        }
    }

    fn other_device(&self) -> CandleError {
        CandleError::Msg(format!("{NAME}: the output is on {:?}, the inputs are not", self.output.device().location()))
    }

    fn gradients<const N: usize>(&self, grad: &Tensor) -> CandleResult<[Option<Tensor>; N]> {
        let gradients = (self.backward)(&grad.contiguous()?).map_err(CandleError::wrap)?;
        gradients.try_into().map_err(|got: Vec<_>| {
            CandleError::Msg(format!("{NAME}: {N} inputs, but the backward returned {} gradients", got.len()))
        })
    }
}

impl CustomOp1 for Node {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let [a] = self.gradients(grad)?;
        Ok(a)
    }
}

impl CustomOp2 for Node {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.gradients(grad)?;
        Ok((a, b))
    }
}

impl CustomOp3 for Node {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.gradients(grad)?;
        Ok((a, b, c))
    }
}
