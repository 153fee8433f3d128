//! Owns processor time: what processes have run, from the kernel's scheduler.

use serde_json::{Map, Value};
use std::fs;
use std::str::FromStr;
use std::time::Instant;

/// Processes whose time is told together, under a name: `proxy=17,18`.
#[derive(Clone, Debug)]
pub struct Watched {
    name: String,
    processes: Vec<u32>,
}

impl Watched {
    /// This process.
    pub fn this(name: &str) -> Self {
        Self { name: name.to_owned(), processes: vec![std::process::id()] }
    }
}

impl FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, list) = text.split_once('=').ok_or("expected NAME=PID,PID")?;
        let processes = list.split(',').map(|id| id.parse().map_err(|_| format!("no process: {id}")));
        Ok(Self { name: name.to_owned(), processes: processes.collect::<Result<_, _>>()? })
    }
}

/// A reading to count from.
pub struct Reading {
    at: Instant,
    spent: Vec<u64>,
    ticks: Vec<Ticks>,
}

/// Processor time by where it was spent, in ticks of the kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    user: u64,
    kernel: u64,
}

impl Reading {
    /// Reads what all have run until now.
    pub fn take(watched: &[Watched]) -> Self {
        let spent = watched.iter().map(|one| spent(&one.processes)).collect();
        Self { at: Instant::now(), spent, ticks: watched.iter().map(|one| ticks(&one.processes)).collect() }
    }

    /// Seconds since then, of the clock as `seconds` and of each of the watched under its name.
    pub fn since(&self, watched: &[Watched]) -> Map<String, Value> {
        let now = Self::take(watched);
        let mut all = Map::new();
        for (one, (before, after)) in watched.iter().zip(self.spent.iter().zip(&now.spent)) {
            all.insert(one.name.clone(), Value::from(after.saturating_sub(*before) as f64 / 1e9));
        }
        all.insert("seconds".to_owned(), Value::from((now.at - self.at).as_secs_f64()));
        all
    }

    /// Which part of its time since then each of the watched has spent outside of the kernel. Those that have spent
    /// none are left out.
    pub fn user_since(&self, watched: &[Watched]) -> Map<String, Value> {
        let now = Self::take(watched);
        let all =
            watched.iter().zip(self.ticks.iter().zip(&now.ticks)).filter_map(|(one, (before, after))| {
                let user = after.user.saturating_sub(before.user);
                let whole = user + after.kernel.saturating_sub(before.kernel);
                (whole > 0).then(|| (one.name.clone(), Value::from(user as f64 / whole as f64)))
            });
        all.collect()
    }
}

/// Where processes have spent their time. What cannot be read is 0, as with a process that has ended.
fn ticks(processes: &[u32]) -> Ticks {
    let all = processes.iter().filter_map(|id| fs::read_to_string(format!("/proc/{id}/stat")).ok());
    all.filter_map(|text| ticks_of(&text)).fold(Ticks::default(), |sum, one| Ticks {
        user: sum.user + one.user,
        kernel: sum.kernel + one.kernel,
    })
}

/// The 14th and the 15th field (`proc_pid_stat(5)`). The second is a name in parentheses, which may hold anything.
fn ticks_of(stat: &str) -> Option<Ticks> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(Ticks { user: fields.next()?.parse().ok()?, kernel: fields.next()?.parse().ok()? })
}

/// Nanoseconds that the threads of processes have run. Those that have ended count no longer, which for the rest is
/// as it should be.
fn spent(processes: &[u32]) -> u64 {
    let tasks = processes.iter().filter_map(|id| fs::read_dir(format!("/proc/{id}/task")).ok());
    let run = tasks.flatten().flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    run.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen() {
        let watched = [format!("me={}", std::process::id()).parse::<Watched>().unwrap()];
        let before = Reading::take(&watched);
        let spent = || before.since(&watched)["me"].as_f64().unwrap();
        // The kernel adds up at its ticks.
        while spent() < 0.02 {
            std::hint::black_box((0..100_000).fold(0_u64, |sum, number| sum ^ std::hint::black_box(number)));
        }
        assert!(before.user_since(&watched)["me"].as_f64().unwrap() > 0.5);
        assert!(spent() <= before.since(&watched)["seconds"].as_f64().unwrap() * 64.0);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_is_skipped() {
        let text = "17 (a ) b) S 1 17 17 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 1 2 3";
        let ticks = ticks_of(text).unwrap();
        assert_eq!((ticks.user, ticks.kernel), (250, 50));
        assert!(ticks_of("17 (a) S 1").is_none());
    }

    #[test]
    fn a_list_is_read() {
        assert_eq!("a=1,2".parse::<Watched>().unwrap().processes, [1, 2]);
        assert!("a".parse::<Watched>().is_err());
        assert!("a=b".parse::<Watched>().is_err());
    }
}
