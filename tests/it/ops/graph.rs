//! `graph::attach`.

use ferrotune::candle_core::{Device, Tensor, Var};
use ferrotune::ops::graph::attach;
use ferrotune::{Error, Result};

fn var(values: &[f32]) -> Result<Var> {
    Ok(Var::new(values, &Device::Cpu)?)
}

#[test]
fn gradients_reach_each_input_and_what_is_before_it() -> Result<()> {
    let vars = [var(&[1., 2.])?, var(&[3., 4.])?, var(&[5., 6.])?];
    for inputs in 1..=3 {
        // Each input is twice a variable, so that the gradient has a further step to go.
        let doubled = vars[..inputs].iter().map(|v| v.as_tensor() * 2.).collect::<Result<Vec<_>, _>>()?;
        let output = Tensor::new(&[7f32, 8.], &Device::Cpu)?;
        let node = attach(&doubled.iter().collect::<Vec<_>>(), output, move |grad| {
            (0..inputs).map(|i| Ok(Some((grad * (i + 1) as f64)?))).collect()
        })?;
        assert_eq!(node.to_vec1::<f32>()?, [7., 8.]);
        let gradients = node.sqr()?.sum_all()?.backward()?;
        for (i, v) in vars[..inputs].iter().enumerate() {
            let factor = 2. * 2. * (i + 1) as f32;
            let got = gradients.get(v).map(Tensor::to_vec1::<f32>).transpose()?;
            assert_eq!(got, Some(vec![7. * factor, 8. * factor]), "input {i} of {inputs}");
        }
    }
    Ok(())
}

#[test]
fn a_view_is_taken_as_it_looks() -> Result<()> {
    let x = var(&[1.])?;
    let table = Tensor::new(&[[1f32, 2., 3.], [4., 5., 6.]], &Device::Cpu)?;
    for (name, view) in [("rows", table.narrow(0, 1, 1)?), ("columns", table.narrow(1, 1, 2)?), ("turned", table.t()?)]
    {
        let node = attach(&[x.as_tensor()], view.clone(), |_| Ok(vec![None]))?;
        assert_eq!(node.to_vec2::<f32>()?, view.to_vec2::<f32>()?, "{name}");
    }
    Ok(())
}

#[test]
fn an_input_may_have_no_gradient() -> Result<()> {
    let (a, b) = (var(&[1.])?, var(&[2.])?);
    let node = attach(&[a.as_tensor(), b.as_tensor()], var(&[3.])?.as_detached_tensor(), |grad| {
        Ok(vec![None, Some(grad.clone())])
    })?;
    let gradients = node.sum_all()?.backward()?;
    assert!(gradients.get(&a).is_none());
    assert_eq!(gradients.get(&b).map(Tensor::to_vec1::<f32>).transpose()?, Some(vec![1.]));
    Ok(())
}

#[test]
fn mistakes_are_errors() -> Result<()> {
    let x = var(&[1.])?;
    let y = x.as_detached_tensor();
    assert!(matches!(attach(&[], y.clone(), |_| Ok(vec![])), Err(Error::Shape { .. })));
    let node = attach(&[x.as_tensor()], y.clone(), |_| Ok(vec![None, None]))?;
    let message = node.sum_all()?.backward().err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("1 inputs, but the backward returned 2 gradients"), "{message}");
    let node = attach(&[x.as_tensor()], y, |_| Err(Error::Shape { op: "test", what: "refused".into() }))?;
    let message = node.sum_all()?.backward().err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("test: refused"), "{message}");
    Ok(())
}
