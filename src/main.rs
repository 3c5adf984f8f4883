//! Arguments to command to exit code.

/// Adapters are copied on one thread and dropped on another at every publication: the system's allocator keeps such
/// memory for the thread that asked for it, and a node would grow by hundreds of MiB in minutes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    rco_node::cli::main()
}
