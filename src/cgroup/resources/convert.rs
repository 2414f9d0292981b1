//! Values that v1 and v2 count differently.

use oci_spec::runtime::{LinuxCpu, LinuxMemory};

use super::table::{bytes, cpu, number, or_max, text};
use super::{Value, Values};
use crate::error::{Error, Result};
use crate::spec::Resources;

/// The range of `cpu.shares`, and those of the weights that they become.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
const CPU_WEIGHTS: std::ops::RangeInclusive<u64> = 1..=10_000;
/// The range of `blockIO.weight`.
pub const BLOCK_WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// CPU shares (2 to 262144, 1024 by default) as a weight (1 to 10000, 100 by default): the curve through these
/// three points that runc 1.3 and crun 1.23 use.
pub fn weight(shares: u64) -> u64 {
    if shares <= *SHARES.start() {
        return *CPU_WEIGHTS.start();
    }
    if shares >= *SHARES.end() {
        return *CPU_WEIGHTS.end();
    }
    // Exact: far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let logarithm = (shares as f64).log2();
    let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}

/// What v1 would silently replace by the next value that it allows is an error.
pub fn shares(resources: &Resources) -> Values {
    let shares = cpu(resources, LinuxCpu::shares).filter(|shares| *shares != 0);
    match shares {
        Some(shares) if !SHARES.contains(&shares) => {
            Err(Error::new(format!("CPU shares are {} to {}, not {shares}", SHARES.start(), SHARES.end())))
        }
        _ => number(shares),
    }
}

/// A weight for block devices (10 to 1000) as one of v2 (1 to 10000), on a line.
pub fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}

/// The quota and its period. Without a quota there is none, without a period it stays: 100 ms at first.
pub fn cpu_max(resources: &Resources) -> Values {
    let quota = cpu(resources, LinuxCpu::quota).filter(|quota| *quota != 0);
    let period = cpu(resources, LinuxCpu::period).filter(|period| *period != 0);
    text(match (quota, period) {
        (None, None) => None,
        (Some(quota), None) => Some(or_max(quota)),
        (quota, Some(period)) => Some(format!("{} {period}", quota.map_or("max".to_owned(), or_max))),
    })
}

/// Memory and swap as config.json has them: 0 is "not set", and swap is counted together with memory.
fn swap_and_limit(resources: &Resources) -> Result<(Option<i64>, Option<i64>)> {
    Ok((bytes(resources, LinuxMemory::swap)?, bytes(resources, LinuxMemory::limit)?))
}

/// v1 counts memory and swap together, as config.json does. Without a limit on memory there is none on both either,
/// unless it is set: the kernel wants the sum to be the larger one.
pub fn swap_total(resources: &Resources) -> Values {
    let (swap, limit) = swap_and_limit(resources)?;
    match (swap, limit) {
        (None, Some(-1)) => Ok(vec![Value { text: "-1".to_owned(), optional: true, ..Value::default() }]),
        (swap, _) => number(swap),
    }
}

/// v2 counts swap alone.
pub fn swap_max(resources: &Resources) -> Values {
    let (swap, limit) = swap_and_limit(resources)?;
    let value = match (swap, limit) {
        (None, Some(-1)) | (Some(-1), _) => "max".to_owned(),
        (None, _) => return Ok(Vec::new()),
        (Some(_), None) => return Err(Error::new("a limit on swap needs a limit on memory")),
        (Some(swap), Some(-1)) => swap.to_string(),
        (Some(swap), Some(limit)) if swap < limit => {
            return Err(Error::new("the limit on memory and swap together is below the one on memory"));
        }
        (Some(swap), Some(limit)) => (swap - limit).to_string(),
    };
    // Without swap accounting, none can be used and all of it may be.
    let optional = matches!(value.as_str(), "max" | "0");
    Ok(vec![Value { text: value, optional, ..Value::default() }])
}

/// 0 is a limit since runtime-spec 1.3: the first process and no other. It is written as 1, which is the same to
/// that process, since into a cgroup with 0 nothing can be cloned; systemd cannot set 0 either.
pub fn process_limit(resources: &Resources) -> Values {
    text(resources.pids.and_then(|pids| pids.limit).map(|limit| or_max(if limit == 0 { 1 } else { limit })))
}
