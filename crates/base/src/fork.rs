//! What a child of fork(2) must not share with its parent. Threads are not copied. Locks are as they were at that
//! moment. Descriptors and shared memory are the same ones.
//!
//! So a child never uses what it inherited, and makes its own when it first needs it. Its [`generation`] tells what it
//! inherited.

use std::convert::Infallible;
use std::mem::{ManuallyDrop, size_of};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use nix::sys::epoll::Epoll;
use nix::sys::eventfd::EventFd;
use nix::sys::mman::{MmapAdvise, madvise};

use super::standard;

/// A page that the kernel wipes in a child, however that is made: fork(2), _Fork(3), or clone(2) without CLONE_VM.
#[repr(C, align(4096))]
struct Page {
    /// 0 in a process that has not asked yet.
    generation: AtomicU64,
    _rest: [u8; 4096 - size_of::<AtomicU64>()],
}

static PAGE: Page = Page { generation: AtomicU64::new(0), _rest: [0; _] };
/// The one given out last, in this process or an ancestor.
static LAST: AtomicU64 = AtomicU64::new(0);
static IS_SET_UP: AtomicBool = AtomicBool::new(false);

/// A number that no ancestor of this process has. One load.
pub fn generation() -> u64 {
    match PAGE.generation.load(Ordering::Relaxed) {
        0 => begin_generation(),
        known => known,
    }
}

#[cold]
fn begin_generation() -> u64 {
    if !IS_SET_UP.load(Ordering::Acquire) {
        set_up();
    }
    let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    match PAGE.generation.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => next,
        Err(other_threads) => other_threads,
    }
}

/// Without a lock, which another thread may hold at a fork. Twice does no harm.
fn set_up() {
    // SAFETY: the page is this static's own; what its wiping does to it is what it is for. The handler takes nothing,
    // and is there as long as the process. A kernel that does not wipe leaves it to the handler.
    unsafe {
        let page = ptr::NonNull::from(&PAGE).cast();
        let _ = madvise(page, size_of::<Page>(), MmapAdvise::MADV_WIPEONFORK);
        libc::pthread_atfork(None, None, Some(in_child));
    }
    IS_SET_UP.store(true, Ordering::Release);
}

/// Runs in a child of fork(3) before anything of the program does. Whatever it calls must be allowed in a signal
/// handler.
extern "C" fn in_child() {
    PAGE.generation.store(0, Ordering::Relaxed);
    for (index, word) in PRIVATE.iter().enumerate() {
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            let number = index as u32 * u64::BITS + bits.trailing_zeros();
            // SAFETY: the number was noted by the one value that owns the descriptor, which closes it no more now.
            unsafe { libc::close(number as RawFd) };
            bits &= bits - 1;
        }
    }
}

/// A bit for each descriptor that a child closes. It keeps those with larger numbers.
static PRIVATE: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; _];

/// The owner of a descriptor that a child of fork(3) closes at once. Kept open there, it could hide this process's end
/// from the peer, hold a lock, and keep an address from being bound again. In the child this value is dead: a drop does
/// nothing there, as the number may be another file's by then.
#[derive(Debug)]
pub struct Private<T> {
    owner: ManuallyDrop<T>,
    number: RawFd,
}

impl<T> Private<T> {
    pub fn new(owner: T) -> Self
    where
        T: AsFd,
    {
        let number = owner.as_fd().as_raw_fd();
        Self::with(owner, number)
    }

    /// Of an owner that does not say itself which descriptor it owns.
    pub fn with(owner: T, number: RawFd) -> Self {
        // For the handler.
        generation();
        if let Some((word, bit)) = place(number) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Self { owner: ManuallyDrop::new(owner), number }
    }
}

impl Private<Epoll> {
    pub fn epoll() -> nix::Result<Self> {
        let epoll = standard::epoll()?;
        let number = epoll.0.as_raw_fd();
        Ok(Self::with(epoll, number))
    }
}

impl Private<EventFd> {
    /// Non-blocking.
    pub fn event() -> nix::Result<Self> {
        standard::event().map(Self::new)
    }
}

fn place(number: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let number = number.cast_unsigned();
    PRIVATE.get((number / u64::BITS) as usize).map(|word| (word, 1 << (number % u64::BITS)))
}

impl<T> Deref for Private<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.owner
    }
}

impl<T> Drop for Private<T> {
    fn drop(&mut self) {
        let is_closed = |(word, bit): (&AtomicU64, u64)| word.fetch_and(!bit, Ordering::Relaxed) & bit == 0;
        if !place(self.number).is_some_and(is_closed) {
            // SAFETY: once, here.
            unsafe { ManuallyDrop::drop(&mut self.owner) };
        }
    }
}

/// A value of which each process has its own, made when it is first asked for. Without a lock: of two threads that
/// make it at a time the first wins. What a parent had is never dropped in its child.
pub struct PerProcess<T>(AtomicPtr<Made<T>>);

struct Made<T> {
    generation: u64,
    value: T,
    /// Kept, so that it is not taken for lost.
    _parents: *const Self,
}

// SAFETY: values are shared between threads, and dropped by the one that drops the whole.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for PerProcess<T> {}

impl<T> PerProcess<T> {
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// This process's value, or its parent's.
    fn last(&self) -> Option<&Made<T>> {
        // SAFETY: NULL, or made by `get_or_try`; dropped with `self` at the earliest, which is borrowed.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// This process's value, if it was made.
    pub fn get(&self) -> Option<&T> {
        self.last().filter(|made| made.generation == generation()).map(|made| &made.value)
    }

    /// This process's value. `make` makes it, if there is none, of the parent's value if there is one. Of that it may
    /// use what never changes, and what shows whether it is whole, such as a lock that is tried.
    pub fn get_or_try<E>(&self, make: impl FnOnce(Option<&T>) -> Result<T, E>) -> Result<&T, E> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let parents = self.last();
        let value = make(parents.map(|made| &made.value))?;
        let before = parents.map_or(ptr::null_mut(), |made| ptr::from_ref(made).cast_mut());
        let made = Box::into_raw(Box::new(Made { generation: generation(), value, _parents: before }));
        match self.0.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: published just now, and dropped with `self` at the earliest.
            Ok(_) => Ok(unsafe { &(*made).value }),
            // SAFETY: `made` is still this thread's alone; the other's is dropped with `self` at the earliest.
            Err(other_threads) => unsafe {
                drop(Box::from_raw(made));
                Ok(&(*other_threads).value)
            },
        }
    }

    /// As [`Self::get_or_try`], where making it cannot fail.
    pub fn get_or(&self, make: impl FnOnce(Option<&T>) -> T) -> &T {
        let made: Result<_, Infallible> = self.get_or_try(|parents| Ok(make(parents)));
        made.unwrap_or_else(|never| match never {})
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if self.get().is_some() {
            // SAFETY: made by Box::into_raw, of this process, and borrowed by nobody.
            drop(unsafe { Box::from_raw(*self.0.get_mut()) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;

    /// Whether `test` is true in a child. It must not allocate: other tests' threads may hold locks.
    fn holds_in_child(test: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child does nothing but the test, and ends without what is done at the end of a program.
        match unsafe { fork() }.expect("fork") {
            // SAFETY: takes a number, and does not return.
            ForkResult::Child => unsafe { libc::_exit(i32::from(!test())) },
            ForkResult::Parent { child } => matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))),
        }
    }

    #[test]
    fn every_child_has_a_generation_of_its_own() {
        let before = generation();
        assert_eq!(generation(), before);
        assert!(holds_in_child(|| {
            let own = generation();
            own != before && own == generation() && holds_in_child(|| ![own, before].contains(&generation()))
        }));
        assert_eq!(generation(), before);
    }

    #[test]
    fn a_private_descriptor_is_closed_in_a_child_and_its_owner_closes_nothing_there() {
        let (mut read, write) = std::io::pipe().expect("a pipe");
        let number = write.as_raw_fd();
        let null = OwnedFd::from(File::open("/dev/null").expect("/dev/null"));
        let mut private = Some(Private::new(write));
        assert!(holds_in_child(|| {
            let is_open = |fd: RawFd| nix::fcntl::fcntl(borrow(fd), nix::fcntl::FcntlArg::F_GETFD).is_ok();
            let was_closed = !is_open(number);
            // SAFETY: plain numbers; in this process nobody owns them.
            let taken = unsafe { libc::dup2(null.as_raw_fd(), number) } == number;
            private = None;
            was_closed && taken && is_open(number)
        }));
        drop(private.take());
        assert_eq!(read.read(&mut [0]).expect("the end"), 0, "the parent closes its own");
    }

    fn borrow<'a>(fd: RawFd) -> std::os::fd::BorrowedFd<'a> {
        // SAFETY: whether it is open is the question.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
    }

    #[test]
    fn a_child_makes_its_own_of_what_its_parent_had() {
        let value = PerProcess::new();
        assert!(value.get().is_none());
        assert_eq!(*value.get_or(|parents| parents.map_or(1, |parents: &u32| parents + 1)), 1);
        assert_eq!(*value.get_or(|_| unreachable!()), 1);
        assert!(holds_in_child(|| value.get().is_none()));
        assert_eq!(value.get_or_try(|_| Err(())), Ok(&1));
    }
}
