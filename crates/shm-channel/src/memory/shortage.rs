//! Whether there is memory for what a process wants to reserve. The kernel does not say so itself: where a limit of a
//! cgroup or the machine's memory is too small, it kills a process, perhaps this one.

use std::path::{Path, PathBuf};
use std::{fs, iter};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Why this much memory cannot be had, if that is certain.
pub(crate) fn shortage(bytes: u64) -> Option<String> {
    if let Some((limit, file)) = cgroup_limit().filter(|(limit, _)| *limit < bytes) {
        return Some(format!("{} allows {limit} bytes", file.display()));
    }
    let available = available().filter(|available| *available < bytes)?;
    Some(format!("the machine has {available} bytes of memory and swap to spare"))
}

/// The lowest limit of this process's cgroup and those above it, and where that is.
fn cgroup_limit() -> Option<(u64, PathBuf)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let files = groups.lines().filter_map(|line| {
        // "0::PATH" of version 2, "4:memory:PATH" of version 1.
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        let (root, file) = match controllers {
            "" => (PathBuf::from(CGROUPS), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (Path::new(CGROUPS).join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = PathBuf::from(path.trim_start_matches('/'));
        let groups: Vec<_> = iter::successors(Some(group), |group| group.parent().map(Path::to_owned)).collect();
        Some(groups.into_iter().map(move |group| root.join(group).join(file)))
    });
    // A file of a group without a limit says "max", and none is there for the outermost one.
    files.flatten().filter_map(|file| Some((fs::read_to_string(&file).ok()?.trim().parse().ok()?, file))).min()
}

/// What programs can get without that others are swapped out, and the room to swap them out to.
fn available() -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = table.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok().map(|kilobytes: u64| kilobytes * 1024)
    };
    Some(field("MemAvailable:")? + field("SwapFree:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_short_and_a_page_is_not() {
        assert_eq!(shortage(4096), None);
        let reason = shortage(u64::MAX).expect("short");
        assert!(reason.contains(" bytes"), "{reason}");
    }
}
