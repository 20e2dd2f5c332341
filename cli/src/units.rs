//! Numbers for people.

/// `1.6 GB`, `612 MB`, in powers of 1000.
pub(crate) fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        _ if n >= 1e6 => format!("{:.0} MB", n / 1e6),
        _ if n >= 1e3 => format!("{:.0} kB", n / 1e3),
        _ => format!("{n} B"),
    }
}

/// The number of bytes that `5GB`, `500MB`, `64kB` or a bare number stands for, in powers of 1000.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1e0,
        "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return Err("write it as `5GB` or `500MB`".into()),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 => Ok((number * factor) as u64),
        _ => Err("write it as `5GB` or `500MB`".into()),
    }
}

/// `9s`, `3m 05s`, `1h 02m`.
pub(crate) fn seconds(s: f64) -> String {
    // A duration that is no number is one that nobody knows yet.
    if !s.is_finite() || s < 0.0 {
        return "?".into();
    }
    let s = s.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        _ => format!("{}h {:02}m", s / 3600, s / 60 % 60),
    }
}

/// `134,515,008`.
pub(crate) fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `92.0%` of a rate from 0 to 1.
pub(crate) fn percent(rate: f64) -> String {
    format!("{:.1}%", 100.0 * rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_numbers() {
        assert_eq!(bytes(98_362_432), "98 MB");
        assert_eq!(bytes(1_600_000_000), "1.60 GB");
        for (text, n) in [("5GB", 5_000_000_000), ("500 MB", 500_000_000), ("1.5kb", 1500), ("17", 17)] {
            assert_eq!(parse_bytes(text), Ok(n), "{text}");
        }
        for text in ["", "GB", "0", "-1GB", "5GiB", "x", "1.2.3"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(seconds(59.6), "1m 00s");
        assert_eq!(seconds(3725.0), "1h 02m");
        assert_eq!(seconds(f64::NAN), "?");
        assert_eq!(count(134_515_008), "134,515,008");
        assert_eq!(count(999), "999");
        assert_eq!(percent(0.915), "91.5%");
    }
}
