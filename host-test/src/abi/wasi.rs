//! The WASI functions that Envoy provides, with its answers: no files, no arguments, logs for stdout and stderr, the
//! proxy's (virtual) clock, and random bytes from the proxy's seed.

use rand::RngCore as _;
use wasmtime::{Caller, Linker, Result};

use super::Status;
use super::guest::{Guest, Refusal};
use crate::vm::HostState;
use crate::world::LogLevel;

/// WASI's error numbers.
mod errno {
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const BADF: u32 = 8;
    pub(super) const FAULT: u32 = 21;
    pub(super) const INVAL: u32 = 28;
    pub(super) const NOENT: u32 = 44;
    pub(super) const NOSYS: u32 = 52;
    pub(super) const NOTSUP: u32 = 58;
}

/// What Envoy hands out at most in one `random_get`.
const MAX_RANDOM_BYTES: u32 = 64 * 1024;

/// A WASI function of both module names, served by `$body`, which returns an error number.
macro_rules! serve {
    ($linker:ident, $name:literal, |$guest:ident $(, $argument:ident: $type:ty)*| $body:expr) => {
        for module in ["wasi_snapshot_preview1", "wasi_unstable"] {
            $linker.func_wrap(module, $name, |caller: Caller<'_, HostState> $(, $argument: $type)*| -> Result<u32> {
                wasi_call(caller, |$guest| $body)
            })?;
        }
    };
}

/// Links every WASI function that Envoy 1.33 provides.
pub(super) fn link(linker: &mut Linker<HostState>) -> Result<()> {
    serve!(linker, "fd_write", |guest, fd: u32, iovs: u32, count: u32, written_out: u32| fd_write(
        guest,
        fd,
        iovs,
        count,
        written_out
    ));
    serve!(linker, "fd_read", |_guest, _fd: u32, _iovs: u32, _count: u32, _read_out: u32| {
        Ok(errno::NOSYS)
    });
    serve!(linker, "fd_seek", |_guest, _fd: u32, _offset: i64, _whence: u32, _out: u32| Ok(errno::SUCCESS));
    serve!(linker, "fd_close", |_guest, _fd: u32| Ok(errno::SUCCESS));
    serve!(linker, "fd_fdstat_get", |guest, fd: u32, stat_out: u32| { fd_fdstat_get(guest, fd, stat_out) });
    serve!(linker, "fd_fdstat_set_flags", |_guest, _fd: u32, _flags: u32| Ok(errno::NOSYS));
    serve!(linker, "environ_get", |_guest, _array: u32, _buffer: u32| Ok(errno::SUCCESS));
    serve!(linker, "environ_sizes_get", |guest, count_out: u32, size_out: u32| write_zeros(
        guest,
        &[count_out, size_out]
    ));
    serve!(linker, "args_get", |_guest, _array: u32, _buffer: u32| Ok(errno::SUCCESS));
    serve!(linker, "args_sizes_get", |guest, count_out: u32, size_out: u32| write_zeros(
        guest,
        &[count_out, size_out]
    ));
    serve!(linker, "clock_time_get", |guest, clock: u32, _precision: u64, time_out: u32| clock_time_get(
        guest, clock, time_out
    ));
    serve!(linker, "random_get", |guest, buffer: u32, size: u32| random_get(guest, buffer, size));
    serve!(linker, "sched_yield", |_guest| Ok(errno::SUCCESS));
    serve!(linker, "poll_oneoff", |_guest, _in: u32, _out: u32, _count: u32, _events_out: u32| Ok(
        errno::NOSYS
    ));
    serve!(linker, "path_open", |_guest,
                                 _fd: u32,
                                 _dir_flags: u32,
                                 _path: u32,
                                 _size: u32,
                                 _oflags: u32,
                                 _base: u64,
                                 _inheriting: u64,
                                 _flags: u32,
                                 _out: u32| { Ok(errno::NOENT) });
    serve!(linker, "fd_prestat_get", |_guest, _fd: u32, _out: u32| Ok(errno::BADF));
    serve!(linker, "fd_prestat_dir_name", |_guest, _fd: u32, _path: u32, _size: u32| Ok(errno::NOSYS));
    for module in ["wasi_snapshot_preview1", "wasi_unstable"] {
        // Envoy only notes it and returns: what then ends the guest is its own `unreachable`.
        linker.func_wrap(module, "proc_exit", |mut caller: Caller<'_, HostState>, code: u32| {
            caller.data_mut().log(LogLevel::Error, format!("wasi_unstable proc_exit ({code})").as_bytes());
        })?;
    }
    Ok(())
}

fn wasi_call(
    caller: Caller<'_, HostState>,
    body: impl FnOnce(&mut Guest<'_>) -> Result<u32, Refusal>,
) -> Result<u32> {
    match body(&mut Guest::new(caller)?) {
        Ok(errno) => Ok(errno),
        Err(Refusal::Status(_)) => Ok(errno::FAULT),
        Err(Refusal::Trap(error)) => Err(error),
    }
}

fn fd_write(guest: &mut Guest<'_>, fd: u32, iovs: u32, count: u32, written_out: u32) -> Result<u32, Refusal> {
    let level = match fd {
        1 => LogLevel::Info,
        2 => LogLevel::Error,
        _ => return Ok(errno::BADF),
    };
    let mut text = Vec::new();
    for index in 0..count {
        let entry = index
            .checked_mul(8)
            .and_then(|offset| iovs.checked_add(offset))
            .ok_or(Status::InvalidMemoryAccess)?;
        let pointer = read_u32(guest, entry)?;
        let length = read_u32(guest, entry.checked_add(4).ok_or(Status::InvalidMemoryAccess)?)?;
        text.extend(guest.read(pointer, length)?);
    }
    let written = super::guest::length_of(&text)?;
    if written > 0 {
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        guest.state_mut().log(level, line);
    }
    guest.write_u32(written_out, written)?;
    Ok(errno::SUCCESS)
}

fn read_u32(guest: &Guest<'_>, pointer: u32) -> Result<u32, Status> {
    let bytes = guest.read(pointer, 4)?;
    let bytes = bytes.first_chunk().ok_or(Status::InvalidMemoryAccess)?;
    Ok(u32::from_le_bytes(*bytes))
}

fn fd_fdstat_get(guest: &mut Guest<'_>, fd: u32, stat_out: u32) -> Result<u32, Refusal> {
    /// `fs_rights_base` of a stream that can be written to.
    const RIGHTS_FD_WRITE: u64 = 64;
    if fd != 1 && fd != 2 {
        return Ok(errno::BADF);
    }
    for (offset, word) in [(0, 0), (8, RIGHTS_FD_WRITE), (16, 0)] {
        guest.write(stat_out.saturating_add(offset), &word.to_le_bytes())?;
    }
    Ok(errno::SUCCESS)
}

fn write_zeros(guest: &mut Guest<'_>, pointers: &[u32]) -> Result<u32, Refusal> {
    for pointer in pointers {
        guest.write_u32(*pointer, 0)?;
    }
    Ok(errno::SUCCESS)
}

fn clock_time_get(guest: &mut Guest<'_>, clock: u32, time_out: u32) -> Result<u32, Refusal> {
    let shown = guest.state().world.clock;
    let now = match clock {
        0 => shown.unix_nanos,
        1 => shown.uptime_nanos,
        _ => return Ok(errno::NOTSUP),
    };
    guest.write(time_out, &now.to_le_bytes())?;
    Ok(errno::SUCCESS)
}

fn random_get(guest: &mut Guest<'_>, buffer: u32, size: u32) -> Result<u32, Refusal> {
    if size > MAX_RANDOM_BYTES {
        return Ok(errno::INVAL);
    }
    let mut bytes = vec![0; size as usize];
    guest.state_mut().vm.random.fill_bytes(&mut bytes);
    guest.write(buffer, &bytes)?;
    Ok(errno::SUCCESS)
}
