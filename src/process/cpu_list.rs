//! Lists such as `0-3,7` of CPUs or NUMA nodes, as `cpuset(7)` writes them.

/// The highest number that a list may name: more than any kernel is built for.
const MAX: usize = 8191;

/// The list as a bit mask, least number first; nothing where it is not a list.
pub fn parse(text: &str) -> Option<Vec<u64>> {
    let mut mask = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        if first > last || last > MAX {
            return None;
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0);
        }
        for number in first..=last {
            mask[number / 64] |= 1 << (number % 64);
        }
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_masks() {
        assert_eq!(parse("0"), Some(vec![1]));
        assert_eq!(parse("0-2, 64"), Some(vec![7, 1]));
        for text in ["", "a", "3-1", "1-", "-1", "0,,1", "99999"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
