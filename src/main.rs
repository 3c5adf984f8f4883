//! Arguments to command to exit code.

use rco_node::kernels::LimitedAllocator;

/// Adapters are copied on one thread and dropped on another at every publication: the system's allocator keeps such
/// memory for the thread that asked for it, and a node would grow by hundreds of MiB in minutes. Limited, so that a chat
/// template takes no more memory than it may.
#[global_allocator]
static ALLOCATOR: LimitedAllocator<mimalloc::MiMalloc> = LimitedAllocator(mimalloc::MiMalloc);

fn main() -> std::process::ExitCode {
    rco_node::cli::main()
}
