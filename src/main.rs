//! Arguments to command to exit code.

fn main() -> std::process::ExitCode {
    rco_node::cli::main()
}
