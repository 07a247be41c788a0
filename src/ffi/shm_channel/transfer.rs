//! A file on its way.

use std::ffi::c_void;
use std::sync::Arc;

use self_cell::self_cell;

use super::super::guard;
use super::client::Handle;
use super::error::shm_channel_error_t::{self, SHM_CHANNEL_NULL};
use super::error::status;
use shm_channel::{Client, Transfer};

/// What a transfer borrows. With it C may free the client first, and need not keep the key.
struct Origin {
    handle: Arc<Handle>,
    client: Arc<Client>,
    key: Box<[u8]>,
}

self_cell!(
    struct Owned {
        owner: Origin,
        #[covariant]
        dependent: Transfer,
    }
);

/// A file on its way from the server.
#[allow(non_camel_case_types)]
pub struct shm_channel_transfer_t(Owned);

impl shm_channel_transfer_t {
    pub(super) fn open(handle: &Arc<Handle>, key: &[u8]) -> Result<Self, shm_channel_error_t> {
        let origin = Origin { handle: Arc::clone(handle), client: handle.client()?, key: key.into() };
        Ok(Self(Owned::try_new(origin, |origin| origin.client.open(&origin.key))?))
    }

    /// In a child of fork(2): goes on with a client of the child's own.
    fn take_over(&mut self) -> Result<(), shm_channel_error_t> {
        if self.0.borrow_dependent().is_inherited() {
            let Origin { handle, key, .. } = self.0.borrow_owner();
            let origin = Origin { handle: Arc::clone(handle), client: handle.client()?, key: key.clone() };
            let inherited = self.0.borrow_dependent();
            let own = Owned::new(origin, |origin| origin.client.go_on(&origin.key, inherited));
            self.0 = own;
        }
        Ok(())
    }
}

/// Returns the length of the file in bytes.
///
/// `transfer`: the transfer. For NULL it returns 0.
///
/// Threads: one at a time for each transfer.
///
/// # Safety
/// `transfer` is NULL or what shm_channel_client_open made, and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shm_channel_transfer_length(transfer: *const shm_channel_transfer_t) -> u64 {
    guard(0, || {
        // SAFETY: NULL or live by the caller's promise.
        unsafe { transfer.as_ref() }.map_or(0, |transfer| transfer.0.borrow_dependent().len())
    })
}

/// Waits for the next bytes of the file.
///
/// `transfer`: the transfer. `data`: receives a pointer to the bytes. `len`: receives their number, at most a segment's
/// size, or 32 KiB where segments are smaller. After the last bytes `data` receives NULL and `len` 0. Both are written
/// on success only.
///
/// Returns SHM_CHANNEL_OK.
///
/// Errors: SHM_CHANNEL_NULL if an argument is NULL. SHM_CHANNEL_CHANGED, SHM_CHANNEL_UNREADABLE,
/// SHM_CHANNEL_UNAVAILABLE, SHM_CHANNEL_NO_SEGMENT or SHM_CHANNEL_CLOSED when the transfer breaks off. After one of
/// these the transfer is over: each further call returns the same error at once, and only shm_channel_transfer_free is
/// left. A lost server is waited for; the transfer goes on with the next server if the file is still the same.
///
/// Ownership: the bytes lie in the shared memory. They are valid until the next call with this transfer, and must not
/// be written. The server's process could change them at any time. So copy what must first be checked and then used. To
/// pass the bytes on, give them to write(2) or send(2) as they are.
///
/// Threads: one at a time for each transfer, not always the same.
///
/// # Safety
/// `transfer` is NULL or what shm_channel_client_open made, and not freed. `data` is NULL or points to memory for a
/// pointer, `len` to memory for a size_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shm_channel_transfer_next(
    transfer: *mut shm_channel_transfer_t,
    data: *mut *const c_void,
    len: *mut usize,
) -> shm_channel_error_t {
    status(|| {
        if data.is_null() || len.is_null() {
            return Err(SHM_CHANNEL_NULL);
        }
        // SAFETY: NULL or live, and this thread's alone, by the caller's promise.
        let Some(transfer) = (unsafe { transfer.as_mut() }) else { return Err(SHM_CHANNEL_NULL) };
        transfer.take_over()?;
        let (begin, size) = transfer.0.with_dependent_mut(|_, transfer| {
            transfer.next_chunk().map(|chunk| chunk.map_or((std::ptr::null(), 0), |c| (c.as_ptr(), c.len())))
        })?;
        // SAFETY: not NULL, and room by the caller's promise.
        unsafe {
            data.write(begin.cast());
            len.write(size);
        }
        Ok(())
    })
}

/// Frees a transfer, at its end or before. The server then stops sending.
///
/// `transfer`: the transfer. NULL does nothing.
///
/// Ownership: the bytes that shm_channel_transfer_next gave are no longer valid.
///
/// Threads: any, once.
///
/// # Safety
/// `transfer` is NULL or what shm_channel_client_open made, and not freed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shm_channel_transfer_free(transfer: *mut shm_channel_transfer_t) {
    guard((), || {
        if !transfer.is_null() {
            // SAFETY: made by Box::into_raw, and freed once, by the caller's promise.
            drop(unsafe { Box::from_raw(transfer) });
        }
    });
}
