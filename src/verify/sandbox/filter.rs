//! The system calls that an untrusted process may make, as a program for the kernel's seccomp.
//!
//! What is not named here fails with "not implemented", so that a new call is not open by being new. Left out are, among
//! others, io_uring, keyctl, ptrace, bpf, perf_event_open, userfaultfd, process_vm_*, mounts, namespaces, modules, kexec,
//! System V IPC, exec, and every socket that is not local.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Which processes a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// They have namespaces of their own.
    Isolated,
    /// They see the machine's processes, so they may start none and signal none.
    Bare,
}

/// The bits of `clone` for namespaces, but for the one of time, whose bit means something else there.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Requests of `ioctl`: is it a terminal, how much is there to read, blocking, close on exec.
#[allow(clippy::unnecessary_cast, reason = "its type differs between C libraries")]
const IOCTLS: &[u64] = &[
    libc::TCGETS as u64,
    libc::TIOCGWINSZ as u64,
    libc::FIONREAD as u64,
    libc::FIONBIO as u64,
    libc::FIOCLEX as u64,
    libc::FIONCLEX as u64,
];

/// Requests of `prctl`: names, of a thread and of memory.
const PRCTLS: &[u64] = &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, 0x5356_4d41];

/// The program as bytes, in the form of `struct sock_filter`.
///
/// # Errors
/// If there is none for this processor.
pub(super) fn bytes(strictness: Strictness) -> Result<Vec<u8>, String> {
    let program = program(strictness).map_err(|error| error.to_string())?;
    let one = |part: &seccompiler::sock_filter| {
        let mut bytes = part.code.to_ne_bytes().to_vec();
        bytes.extend([part.jt, part.jf]);
        bytes.extend(part.k.to_ne_bytes());
        bytes
    };
    Ok(program.iter().flat_map(one).collect())
}

fn program(strictness: Strictness) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: Rules = FILES.iter().chain(MEMORY).chain(PROCESS).chain(LOCAL).map(|call| (*call, vec![])).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(OLDER.iter().map(|call| (*call, vec![])));
    rules.insert(libc::SYS_ioctl, one_of(1, IOCTLS)?);
    rules.insert(libc::SYS_prctl, one_of(0, PRCTLS)?);
    rules.insert(libc::SYS_socket, one_of(0, &[libc::AF_UNIX as u64])?);
    rules.insert(libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX as u64])?);
    rules.insert(libc::SYS_prlimit64, one_of(0, &[0])?);
    match strictness {
        Strictness::Isolated => {
            rules.extend([libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill].map(|call| (call, vec![])));
            #[cfg(target_arch = "x86_64")]
            rules.extend([libc::SYS_fork, libc::SYS_vfork].map(|call| (call, vec![])));
            rules.insert(libc::SYS_clone, masked(NAMESPACES, 0)?);
        }
        Strictness::Bare => {
            let thread = libc::CLONE_THREAD as u64;
            rules.insert(libc::SYS_clone, masked(NAMESPACES | thread, thread)?);
        }
    }
    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
}

/// The low half of argument `index` is one of `values`: all of these arguments are 32 bits wide.
fn one_of(index: u8, values: &[u64]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |value: &u64| {
        let equal = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)?;
        SeccompRule::new(vec![equal])
    };
    values.iter().map(rule).collect()
}

/// Of the bits of the first argument that are in `mask`, exactly those of `value` are set.
fn masked(mask: u64, value: u64) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let op = SeccompCmpOp::MaskedEq(mask);
    Ok(vec![SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, op, value)?])?])
}

const FILES: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_lseek,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_umask,
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
];

const MEMORY: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
];

const PROCESS: &[i64] = &[
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_setpgid,
    libc::SYS_getsid,
    libc::SYS_setsid,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_setrlimit,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getitimer,
    libc::SYS_setitimer,
    libc::SYS_getrandom,
    libc::SYS_getcpu,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// Calls on sockets, of which only local ones can be had.
const LOCAL: &[i64] = &[
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
];

/// What newer processors have only in another form.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_alarm,
    libc::SYS_pause,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_readlink,
    libc::SYS_chmod,
    libc::SYS_utimes,
    libc::SYS_getdents,
    libc::SYS_epoll_wait,
    libc::SYS_time,
    libc::SYS_accept,
    libc::SYS_getpgrp,
    libc::SYS_arch_prctl,
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_program_fits_what_the_kernel_takes() {
        for strictness in [Strictness::Isolated, Strictness::Bare] {
            let length = bytes(strictness).unwrap().len() / 8;
            assert!(length > FILES.len() && length < 4096, "{length} instructions");
        }
    }
}
