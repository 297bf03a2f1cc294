//! The main colours of a picture. The same picture gives the same colours, always.

use super::{nearest_byte, request::Colour};
use image::DynamicImage;
use std::collections::BTreeMap;

/// Samples along each side: enough to weigh colours to a thousandth, few enough to count at once.
const SAMPLES_PER_SIDE: u32 = 256;

/// Groups that compete; rarer ones join the nearest of these.
const GROUPS_MAX: usize = 128;

/// Colours closer than this (squared distance in RGB) are one colour to the eye: noise of JPEG.
const SAME_COLOUR: f64 = 300.0;

/// Sampled pixels of about one colour.
#[derive(Clone, Copy, Default)]
struct Group {
    count: f64,
    sum: [f64; 3],
}

impl Group {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        for (sum, more) in self.sum.iter_mut().zip(other.sum) {
            *sum += more;
        }
    }

    fn distance(&self, other: &Self) -> f64 {
        let difference = |i: usize| self.sum[i] / self.count - other.sum[i] / other.count;
        (0..3).map(|i| difference(i).powi(2)).sum()
    }

    /// How much is lost by taking two groups for one (Ward's criterion): rare and near go first.
    fn loss(&self, other: &Self) -> f64 {
        self.count * other.count / (self.count + other.count) * self.distance(other)
    }

    fn colour(&self) -> Colour {
        Colour(self.sum.map(|sum| nearest_byte(sum / self.count)))
    }
}

/// At most `count` colours, the most frequent first; fewer when the picture has fewer. Pixels that
/// are more clear than not do not count.
pub(super) fn palette(picture: &DynamicImage, count: usize) -> Vec<Colour> {
    let mut groups = groups(picture);
    while groups.len() > 1 {
        let Some((keep, gone)) = nearest_pair(&groups) else { break };
        if groups.len() <= count && groups[keep].distance(&groups[gone]) >= SAME_COLOUR {
            break;
        }
        let merged = groups.remove(gone);
        groups[keep].add(&merged);
    }
    groups.sort_by(|a, b| b.count.total_cmp(&a.count));
    groups.iter().map(Group::colour).collect()
}

/// The samples, grouped by the upper five bits of each channel.
fn groups(picture: &DynamicImage) -> Vec<Group> {
    let (across, down) = (
        picture.width().div_ceil(SAMPLES_PER_SIDE).max(1),
        picture.height().div_ceil(SAMPLES_PER_SIDE).max(1),
    );
    let mut by_bucket = BTreeMap::<[u8; 3], Group>::new();
    for y in (0..picture.height()).skip(down as usize / 2).step_by(down as usize) {
        for x in (0..picture.width()).skip(across as usize / 2).step_by(across as usize) {
            let [r, g, b, alpha] = image::GenericImageView::get_pixel(picture, x, y).0;
            if alpha >= 128 {
                let sample = Group { count: 1.0, sum: [r, g, b].map(f64::from) };
                by_bucket.entry([r, g, b].map(|channel| channel >> 3)).or_default().add(&sample);
            }
        }
    }
    if by_bucket.is_empty() {
        return vec![Group { count: 1.0, sum: [255.0; 3] }]; // nothing to see: the paper
    }
    let mut groups: Vec<Group> = by_bucket.into_values().collect();
    groups.sort_by(|a, b| b.count.total_cmp(&a.count)); // stable: equal ones stay in colour order
    let rare = groups.split_off(groups.len().min(GROUPS_MAX));
    for group in rare {
        let nearest = (0..groups.len())
            .min_by(|a, b| groups[*a].distance(&group).total_cmp(&groups[*b].distance(&group)));
        if let Some(nearest) = nearest {
            groups[nearest].add(&group);
        }
    }
    groups
}

fn nearest_pair(groups: &[Group]) -> Option<(usize, usize)> {
    let pairs = (0..groups.len()).flat_map(|i| (i + 1..groups.len()).map(move |j| (i, j)));
    pairs.min_by(|a, b| groups[a.0].loss(&groups[a.1]).total_cmp(&groups[b.0].loss(&groups[b.1])))
}

#[cfg(test)]
mod tests {
    use super::super::{decode::decode, testing};
    use super::*;
    use image::{Rgba, RgbaImage};

    fn colours(picture: &DynamicImage, count: usize) -> Vec<String> {
        palette(picture, count).iter().map(Colour::to_string).collect()
    }

    #[test]
    fn flat_colours_come_out_exactly_most_frequent_first() {
        let picture = testing::stripes(
            600,
            10,
            &[[18, 52, 86], [18, 52, 86], [18, 52, 86], [200, 10, 10], [200, 10, 10], [9, 250, 7]],
        );
        assert_eq!(colours(&picture, 5), ["#123456", "#c80a0a", "#09fa07"]);
        assert_eq!(colours(&picture, 1).len(), 1);
    }

    #[test]
    fn jpeg_noise_makes_no_colours_of_its_own() {
        let photo = decode(&testing::jpeg(&testing::stripes(
            512,
            256,
            &[[250, 250, 250], [250, 250, 250], [20, 40, 160]],
        )))
        .unwrap();
        let found = palette(&photo, 2);
        assert_eq!(found.len(), 2);
        assert!(found[0].0.iter().all(|c| *c > 240), "{found:?}");
        assert!(found[1].0[2] > 140 && found[1].0[0] < 50, "{found:?}");
    }

    #[test]
    fn a_rich_picture_gives_the_asked_count_and_always_the_same() {
        let picture = testing::gradient(300, 300);
        for count in [1, 5, 16] {
            let found = colours(&picture, count);
            assert_eq!(found.len(), count);
            assert_eq!(found, colours(&picture, count));
        }
    }

    #[test]
    fn clear_pixels_do_not_count() {
        let picture = DynamicImage::ImageRgba8(RgbaImage::from_fn(64, 64, |x, _| {
            if x < 60 { Rgba([255, 0, 0, 10]) } else { Rgba([0, 128, 0, 255]) }
        }));
        assert_eq!(colours(&picture, 5), ["#008000"]);
        let nothing = DynamicImage::ImageRgba8(RgbaImage::new(4, 4));
        assert_eq!(colours(&nothing, 5), ["#ffffff"]);
    }
}
