//! Compiles the kernels of the decode pass, where the program is built for a GPU.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/transformer/dense/cuda/decode.cu");
    #[cfg(feature = "cuda")]
    cudaforge::KernelBuilder::new()
        .source_files(["src/transformer/dense/cuda/decode.cu"])
        .arg("-std=c++17")
        .arg("-O3")
        .build_ptx()
        .expect("nvcc compiles the kernels of the decode pass");
}
