//! The decode pass's own kernels on a GPU (`cuda/decode.cu`), and a product for both passes that cuBLAS sums into f32.
//!
//! They compute what [`super::fused`] and [`super::ops`] compute on any device, in fewer launches, and are held to them by
//! tests. A launch is `unsafe`, as in the kernels' room.

#![allow(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "these have no gradient, and the decode pass has none")]

use super::fused::HeadsOfRows;
use crate::formats::spec::Activation;
use crate::kernels::attention::Heads;
use crate::transformer::decode::{Drawn, RowSampling};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaView, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, WrapErr};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Storage, Tensor, bail};
use half::bf16;
use std::ffi::{c_int, c_void};

/// The kernels, compiled when the program was built.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/decode.ptx"));
/// Threads of a block of the kernels that gate and draw; `THREADS` in `decode.cu`.
const THREADS: u32 = 256;
/// Most blocks of a kernel that loops.
const BLOCKS_MAX: u32 = 1 << 16;

fn kernel(device: &CudaDevice, name: &str) -> Result<CudaFunction> {
    Ok(device.get_or_load_custom_func(name, "decode", PTX)?.into_cuda_function())
}

/// The values of a contiguous tensor.
fn view<'a, T: CudaDType>(storage: &'a CudaStorage, layout: &Layout) -> Result<CudaView<'a, T>> {
    match layout.contiguous_offsets() {
        Some((first, end)) => Ok(storage.as_cuda_slice::<T>()?.slice(first..end)),
        None => bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

fn on_gpu(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("expected a tensor on a gpu"),
    }
}

/// Views of tensors that an operation captures, for the rest of the block.
macro_rules! views {
    ($($name:ident: $kind:ty = $tensor:expr, of $length:expr;)+) => {$(
        let (storage, layout) = $tensor.storage_and_layout();
        let $name = view::<$kind>(on_gpu(&storage)?, layout)?;
        if $name.len() != $length {
            bail!("{}: expected {} values, got {}", stringify!($name), $length, $name.len());
        }
    )+};
}

/// Splits `(rows, q + k + v widths)` into heads, normalises and rotates queries and keys, writes keys and values to `slots`,
/// `(rows)`, of the pages, and returns the queries, `(rows, heads, head_dim)`, in bf16.
pub(super) fn heads_to_cache(
    qkv: &Tensor,
    of_rows: &HeadsOfRows<'_>,
    slots: &Tensor,
    pages: &(Tensor, Tensor),
) -> Result<Tensor> {
    qkv.apply_op1_no_bwd(&HeadsToCache { of_rows, slots, pages })
}

struct HeadsToCache<'a> {
    of_rows: &'a HeadsOfRows<'a>,
    slots: &'a Tensor,
    pages: &'a (Tensor, Tensor),
}

impl CustomOp1 for HeadsToCache<'_> {
    fn name(&self) -> &'static str {
        "heads-to-cache"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("heads-to-cache: expected a tensor on a gpu")
    }

    fn cuda_fwd(&self, qkv: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let HeadsOfRows { heads: Heads { heads, kv_heads, head_dim, .. }, norms, epsilon, angles } = *self.of_rows;
        let (device, (rows, width)) = (qkv.device(), layout.shape().dims2()?);
        let (pairs, all) = (angles.0.elem_count() / rows, heads + 2 * kv_heads);
        if width != all * head_dim || head_dim > 1024 || 2 * pairs > head_dim {
            bail!("heads-to-cache: expected {all} heads of {head_dim} values, got a row of {width}");
        }
        let qkv = view::<f32>(qkv, layout)?;
        // Where nothing is normalised the kernel reads no norm, and gets the angles in their place.
        let (q_norm, k_norm) = norms.map_or((&angles.0, &angles.0), |norms| (&norms.q, &norms.k));
        let norm_width = if norms.is_some() { head_dim } else { rows * pairs };
        let page_values = self.pages.0.elem_count();
        views! {
            cosines: f32 = angles.0, of rows * pairs;
            sines: f32 = angles.1, of rows * pairs;
            slots: u32 = self.slots, of rows;
            q_norm: f32 = q_norm, of norm_width;
            k_norm: f32 = k_norm, of norm_width;
            keys: bf16 = self.pages.0, of page_values;
            values: bf16 = self.pages.1, of page_values;
        }
        // SAFETY: the kernel writes every value.
        let mut q = unsafe { device.alloc::<bf16>(rows * heads * head_dim)? };
        let sizes = [heads, kv_heads, head_dim, pairs].map(|size| size as u32);
        let normed = u32::from(norms.is_some());
        let (stream, function) = (device.cuda_stream(), kernel(device, "heads_to_cache")?);
        let mut launch = stream.launch_builder(&function);
        launch.arg(&qkv).arg(&cosines).arg(&sines).arg(&slots).arg(&q_norm).arg(&k_norm);
        launch.arg(&mut q).arg(&keys).arg(&values).arg(&epsilon);
        launch.arg(&sizes[0]).arg(&sizes[1]).arg(&sizes[2]).arg(&sizes[3]).arg(&normed);
        let config = LaunchConfig {
            grid_dim: (rows as u32, all as u32, 1),
            block_dim: (head_dim as u32, 1, 1),
            shared_mem_bytes: (2 * head_dim * size_of::<f32>()) as u32,
        };
        // SAFETY: the arguments are those of the kernel, and the views are as long as it reads; slots are within the pages,
        // because block tables are. The pages are written by this stream alone.
        unsafe { launch.launch(config) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(q, device.clone()), Shape::from((rows, heads, head_dim))))
    }
}

/// `activation(gate) * up` where a row is `gate` then `up`: `(rows, 2 width)` to `(rows, width)`.
pub(super) fn gated(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    gate_up.apply_op1_no_bwd(&Gated(activation))
}

struct Gated(Activation);

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("gated: expected a tensor on a gpu")
    }

    fn cuda_fwd(&self, gate_up: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, (rows, both)) = (gate_up.device(), layout.shape().dims2()?);
        let (width, (a, b)) = (both / 2, self.0.coefficients());
        let gate_up = view::<f32>(gate_up, layout)?;
        // SAFETY: the kernel writes every value.
        let mut out = unsafe { device.alloc::<f32>(rows * width)? };
        let sizes = [rows, width].map(|size| size as u32);
        let (stream, function) = (device.cuda_stream(), kernel(device, "gated")?);
        let mut launch = stream.launch_builder(&function);
        launch.arg(&gate_up).arg(&mut out).arg(&sizes[0]).arg(&sizes[1]).arg(&a).arg(&b);
        let blocks = (rows * width).div_ceil(THREADS as usize).min(BLOCKS_MAX as usize) as u32;
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are those of the kernel, which reads `rows` rows of `2 width` and writes `rows` of `width`.
        unsafe { launch.launch(config) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), Shape::from((rows, width))))
    }
}

/// `x W^T` of bf16 factors, summed and kept in f32: `(rows, inputs)` and `(outputs, inputs)` to `(rows, outputs)`.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &Product)
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("product: expected tensors on a gpu")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        of_x: &Layout,
        weight: &CudaStorage,
        of_weight: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, (rows, inputs), (outputs, of_row)) =
            (x.device(), of_x.shape().dims2()?, of_weight.shape().dims2()?);
        if inputs != of_row {
            bail!("product: expected a weight of {inputs} inputs, got {of_row}");
        }
        let (x, weight) = (view::<bf16>(x, of_x)?, view::<bf16>(weight, of_weight)?);
        // SAFETY: the product writes every value.
        let mut out = unsafe { device.alloc::<f32>(rows * outputs)? };
        let size = |size: usize| c_int::try_from(size).map_err(candle_core::Error::wrap);
        let (m, n, k) = (size(outputs)?, size(rows)?, size(inputs)?);
        let (one, zero) = (1.0f32, 0.0f32);
        let (stream, blas) = (device.cuda_stream(), device.cublas_handle());
        {
            let (x, _reads_x) = x.device_ptr(&stream);
            let (weight, _reads_weight) = weight.device_ptr(&stream);
            let (out, _writes) = out.device_ptr_mut(&stream);
            // SAFETY: cuBLAS counts columns first: out^T (outputs, rows) = W (outputs, inputs) x^T (inputs, rows), each as long as
            // its view; the scales are f32 on the host, as the type of the sum asks.
            unsafe {
                result::gemm_ex(
                    *blas.handle(),
                    sys::cublasOperation_t::CUBLAS_OP_T,
                    sys::cublasOperation_t::CUBLAS_OP_N,
                    m,
                    n,
                    k,
                    (&raw const one).cast::<c_void>(),
                    weight as *const c_void,
                    sys::cudaDataType_t::CUDA_R_16BF,
                    k,
                    x as *const c_void,
                    sys::cudaDataType_t::CUDA_R_16BF,
                    k,
                    (&raw const zero).cast::<c_void>(),
                    out as *mut c_void,
                    sys::cudaDataType_t::CUDA_R_32F,
                    m,
                    sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                    sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
                )
            }
            .w()?;
        }
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), Shape::from((rows, outputs))))
    }
}

/// A [`RowSampling`] as the kernel takes it: `Sampling` in `decode.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelSampling {
    uniform: f64,
    inverse_temperature: f32,
    top_p: f32,
    min_p: f32,
    row: u32,
    top_k: u32,
}

// SAFETY: numbers alone, in C's layout, which is the kernel's.
unsafe impl DeviceRepr for KernelSampling {}

impl From<&RowSampling> for KernelSampling {
    fn from(sampling: &RowSampling) -> Self {
        let greedy = sampling.temperature <= 0.0;
        Self {
            uniform: sampling.uniform,
            inverse_temperature: if greedy { 0.0 } else { 1.0 / sampling.temperature },
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            row: sampling.row as u32,
            top_k: u32::try_from(sampling.top_k).unwrap_or(u32::MAX),
        }
    }
}

/// Draws a token for each of `samplings` from its row of `logits`, `(rows, vocab)`; none where the row is no distribution. Only
/// ids and log-probabilities leave the device.
pub(super) fn draw(logits: &Tensor, samplings: &[RowSampling]) -> Result<Vec<Option<Drawn>>> {
    let (rows, vocab) = logits.dims2()?;
    if let Some(outside) = samplings.iter().find(|sampling| sampling.row >= rows) {
        bail!("draw: expected a row below {rows}, got {}", outside.row);
    }
    let (storage, layout) = logits.storage_and_layout();
    let storage = on_gpu(&storage)?;
    let (device, logits) = (storage.device(), view::<f32>(storage, layout)?);
    let samplings: Vec<KernelSampling> = samplings.iter().map(KernelSampling::from).collect();
    let on_device = device.clone_htod(&samplings)?;
    let mut ids = device.alloc_zeros::<u32>(samplings.len())?;
    let mut log_probs = device.alloc_zeros::<f32>(samplings.len())?;
    let width = vocab as u32;
    let (stream, function) = (device.cuda_stream(), kernel(device, "draw_tokens")?);
    let mut launch = stream.launch_builder(&function);
    launch.arg(&logits).arg(&on_device).arg(&mut ids).arg(&mut log_probs).arg(&width);
    let config =
        LaunchConfig { grid_dim: (samplings.len() as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are those of the kernel; every row is one of `logits`, and there is an output for each block.
    unsafe { launch.launch(config) }.w()?;
    let drawn = device.clone_dtoh(&ids)?.into_iter().zip(device.clone_dtoh(&log_probs)?);
    Ok(drawn.map(|(id, log_prob)| (id < width).then_some(Drawn { id, log_prob })).collect())
}
