//! One host call's view of its guest: bounds-checked memory, allocation in the guest, and the state behind it.

use wasmtime::{Caller, Error, Extern, Memory, Result, format_err};

use super::Status;
use crate::vm::HostState;

/// Why a host call does not return `Ok`: a status for the guest, or a trap that ends it.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The guest sees this status and goes on.
    Status(Status),
    /// The call can't be emulated, or the guest itself trapped meanwhile.
    Trap(Error),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Trap(error)
    }
}

/// The calling guest.
pub(super) struct Guest<'a> {
    caller: Caller<'a, HostState>,
    memory: Memory,
}

impl<'a> Guest<'a> {
    pub(super) fn new(mut caller: Caller<'a, HostState>) -> Result<Self> {
        let memory = caller
            .get_export("memory")
            .and_then(Extern::into_memory)
            .ok_or_else(|| format_err!("the module exports no `memory`"))?;
        Ok(Self { caller, memory })
    }

    pub(super) fn state(&self) -> &HostState {
        self.caller.data()
    }

    pub(super) fn state_mut(&mut self) -> &mut HostState {
        self.caller.data_mut()
    }

    /// Copies `length` bytes at `pointer` out of the guest.
    pub(super) fn read(&self, pointer: u32, length: u32) -> Result<Vec<u8>, Status> {
        let start = pointer as usize;
        let end = start.checked_add(length as usize).ok_or(Status::InvalidMemoryAccess)?;
        let bytes = self.memory.data(&self.caller).get(start..end).ok_or(Status::InvalidMemoryAccess)?;
        Ok(bytes.to_vec())
    }

    /// Copies `bytes` into the guest at `pointer`.
    pub(super) fn write(&mut self, pointer: u32, bytes: &[u8]) -> Result<(), Status> {
        self.memory.write(&mut self.caller, pointer as usize, bytes).map_err(|_| Status::InvalidMemoryAccess)
    }

    pub(super) fn write_u32(&mut self, pointer: u32, value: u32) -> Result<(), Status> {
        self.write(pointer, &value.to_le_bytes())
    }

    /// Has the guest allocate `size` bytes, as Envoy does for everything that it returns.
    pub(super) fn allocate(&mut self, size: u32) -> Result<u32, Refusal> {
        let allocate = ["malloc", "proxy_on_memory_allocate"]
            .iter()
            .find_map(|name| self.caller.get_export(name)?.into_func())
            .ok_or_else(|| format_err!("the module exports neither `malloc` nor `proxy_on_memory_allocate`"))?
            .typed::<u32, u32>(&self.caller)?;
        match allocate.call(&mut self.caller, size)? {
            0 => Err(Status::InvalidMemoryAccess.into()),
            pointer => Ok(pointer),
        }
    }

    /// Returns `bytes` through the guest's pair of out-pointers. Nothing is allocated for an empty string: the guest
    /// sees a null pointer of size 0.
    pub(super) fn return_bytes(
        &mut self,
        bytes: &[u8],
        pointer_out: u32,
        size_out: u32,
    ) -> Result<(), Refusal> {
        let pointer = if bytes.is_empty() { 0 } else { self.place(bytes)? };
        self.write_u32(pointer_out, pointer)?;
        self.write_u32(size_out, length_of(bytes)?)?;
        Ok(())
    }

    /// Allocates for `bytes`, empty or not, and copies them there.
    pub(super) fn place(&mut self, bytes: &[u8]) -> Result<u32, Refusal> {
        let pointer = self.allocate(length_of(bytes)?)?;
        self.write(pointer, bytes)?;
        Ok(pointer)
    }
}

/// The length of `bytes` as the guest counts it.
pub(super) fn length_of(bytes: &[u8]) -> Result<u32, Refusal> {
    u32::try_from(bytes.len()).map_err(|_| Status::InvalidMemoryAccess.into())
}
