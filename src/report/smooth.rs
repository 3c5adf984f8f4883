//! Means over a window of neighbouring points, and fewer points where there are more than a picture can show.

/// A point of a smoothed curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Smoothed {
    pub(super) x: f64,
    /// The mean within the window.
    pub(super) mean: f64,
    /// The standard deviation within it.
    pub(super) deviation: f64,
}

/// Curves of fewer points are not smoothed.
pub(super) const POINTS_MIN: usize = 12;
/// Points of a curve in a picture.
const POINTS_MAX: usize = 400;

/// The half width of the window for a curve of `points`.
pub(super) fn half_width(points: usize) -> usize {
    (points / 16).clamp(2, 200)
}

/// The mean and the deviation around each of `points`, in the order of x.
pub(super) fn smoothed(points: &[(f64, f64)]) -> Vec<Smoothed> {
    let half = half_width(points.len());
    let around = |place: usize| {
        // The window is cut at both ends alike, so that no end is drawn towards the middle.
        let reach = half.min(place).min(points.len() - 1 - place).max(half / 2);
        let window = &points[place.saturating_sub(reach)..(place + reach + 1).min(points.len())];
        let count = window.len() as f64;
        let mean = window.iter().map(|(_, y)| y).sum::<f64>() / count;
        let squares = window.iter().map(|(_, y)| (y - mean).powi(2)).sum::<f64>() / count;
        Smoothed { x: points[place].0, mean, deviation: squares.sqrt() }
    };
    thinned(&(0..points.len()).map(around).collect::<Vec<_>>())
}

/// At most as many of `points` as a picture can show, the first and the last among them.
pub(super) fn thinned<T: Copy>(points: &[T]) -> Vec<T> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let step = (points.len() - 1) as f64 / (POINTS_MAX - 1) as f64;
    (0..POINTS_MAX).map(|place| points[(place as f64 * step).round() as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_stays_itself_and_a_slope_stays_straight() {
        let slope: Vec<(f64, f64)> = (0..64).map(|x| (f64::from(x), 2.0 * f64::from(x))).collect();
        let curve = smoothed(&slope);
        assert_eq!(curve.len(), 64);
        assert!(curve[4..60].iter().all(|point| (point.mean - 2.0 * point.x).abs() < 1e-9), "{curve:?}");
        let flat: Vec<(f64, f64)> = (0..2000).map(|x| (f64::from(x), 0.5)).collect();
        let curve = smoothed(&flat);
        assert_eq!((curve.len(), curve[0].x, curve[POINTS_MAX - 1].x), (POINTS_MAX, 0.0, 1999.0));
        assert!(curve.iter().all(|point| point.mean == 0.5 && point.deviation == 0.0));
    }
}
