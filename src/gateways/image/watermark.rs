//! A mark laid over a picture.

use super::{
    PictureFault,
    encode::mix,
    nearest_byte, ops,
    request::{Fit, Position},
};
use image::{DynamicImage, GenericImageView, Rgba, RgbaImage};

/// Lays `mark` on `picture`, flush with the corner or in the middle. A mark larger than the picture
/// is scaled down to fit; its own transparency is weakened by `opacity`.
///
/// # Errors
/// As [`ops::resize`].
pub(super) fn watermark(
    picture: DynamicImage,
    mark: &DynamicImage,
    position: Position,
    opacity: f32,
) -> Result<DynamicImage, PictureFault> {
    let fitted;
    let mark = if mark.width() > picture.width() || mark.height() > picture.height() {
        fitted = ops::resize(mark, (Some(picture.width()), Some(picture.height())), Fit::Contain)?;
        &fitted
    } else {
        mark
    };
    let (right, bottom) = (picture.width() - mark.width(), picture.height() - mark.height());
    let (left, top) = match position {
        Position::TopLeft => (0, 0),
        Position::TopRight => (right, 0),
        Position::BottomLeft => (0, bottom),
        Position::BottomRight => (right, bottom),
        Position::Center => (right / 2, bottom / 2),
    };
    let opaque = !picture.has_alpha();
    let mut canvas: RgbaImage = picture.into_rgba8();
    for (x, y, over) in mark.pixels() {
        let alpha = f32::from(over.0[3]) * opacity;
        let under = canvas.get_pixel_mut(left + x, top + y);
        *under = lay(over, *under, alpha);
    }
    let canvas = DynamicImage::ImageRgba8(canvas);
    Ok(if opaque { DynamicImage::ImageRgb8(canvas.into_rgb8()) } else { canvas })
}

/// `over` with the given alpha (0 to 255) on `under`, which may itself be clear.
fn lay(over: Rgba<u8>, under: Rgba<u8>, alpha: f32) -> Rgba<u8> {
    let below = f32::from(under.0[3]) * (255.0 - alpha) / 255.0;
    let together = alpha + below;
    if together <= 0.0 {
        return under;
    }
    let weight = nearest_byte(f64::from(255.0 * alpha / together));
    let [r, g, b, _] = std::array::from_fn(|i| mix(over.0[i], under.0[i], weight));
    Rgba([r, g, b, nearest_byte(f64::from(together))])
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn marked(position: Position, opacity: f32) -> image::RgbImage {
        let picture = testing::stripes(100, 60, &[[0, 0, 0]]);
        let mark = testing::stripes(20, 10, &[[255, 255, 255]]);
        watermark(picture, &mark, position, opacity).unwrap().into_rgb8()
    }

    #[test]
    fn the_mark_lies_where_it_is_asked() {
        for (position, (left, top)) in [
            (Position::TopLeft, (0, 0)),
            (Position::TopRight, (80, 0)),
            (Position::BottomLeft, (0, 50)),
            (Position::BottomRight, (80, 50)),
            (Position::Center, (40, 25)),
        ] {
            let picture = marked(position, 1.0);
            for (x, y, pixel) in picture.enumerate_pixels() {
                let inside = (left..left + 20).contains(&x) && (top..top + 10).contains(&y);
                assert_eq!(pixel.0, if inside { [255; 3] } else { [0; 3] }, "{position:?} at {x}, {y}");
            }
        }
    }

    #[test]
    fn opacity_weighs_the_mark() {
        assert_eq!(marked(Position::TopLeft, 0.0).get_pixel(1, 1).0, [0; 3]);
        assert_eq!(marked(Position::TopLeft, 0.5).get_pixel(1, 1).0, [128; 3]);
    }

    #[test]
    fn a_mark_larger_than_the_picture_is_scaled_down() {
        let picture = testing::stripes(50, 50, &[[0, 0, 0]]);
        let mark = testing::stripes(400, 100, &[[255, 255, 255]]);
        let result = watermark(picture, &mark, Position::Center, 1.0).unwrap().into_rgb8();
        let white = result.pixels().filter(|p| p.0 == [255; 3]).count();
        assert!((550..=650).contains(&white), "a stripe of 50 x 12 or 13, not {white} pixels");
    }

    #[test]
    fn a_clear_picture_takes_the_colour_of_the_mark() {
        let clear = DynamicImage::ImageRgba8(RgbaImage::new(10, 10));
        let mark = testing::stripes(10, 10, &[[10, 200, 30]]);
        let result = watermark(clear, &mark, Position::Center, 0.5).unwrap().into_rgba8();
        assert_eq!(result.get_pixel(5, 5).0, [10, 200, 30, 128]);
    }
}
