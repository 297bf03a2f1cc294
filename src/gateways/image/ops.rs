//! Operations on one picture. Every result is bounded before it is made.

use super::{
    PictureFault,
    decode::PIXELS_MAX,
    nearest,
    request::{Crop, Fit},
};
use fast_image_resize::{
    CropBox, MulDiv, PixelType, ResizeOptions, Resizer, SrcCropping,
    images::{Image, ImageRef},
};
use image::{DynamicImage, RgbImage, RgbaImage};

/// Below this the box approximation of a Gaussian is coarse and the exact kernel is small.
const EXACT_BLUR_BELOW: f32 = 3.0;

/// Scales to the asked size; a missing side follows from the proportions.
///
/// # Errors
/// [`PictureFault::Rejected`] when the side that follows would make the result larger than a picture may be.
pub(super) fn resize(
    picture: &DynamicImage,
    (width, height): (Option<u32>, Option<u32>),
    fit: Fit,
) -> Result<DynamicImage, PictureFault> {
    let (own_width, own_height) = (f64::from(picture.width()), f64::from(picture.height()));
    let (width, height) = match (width.map(f64::from), height.map(f64::from)) {
        (Some(width), Some(height)) => (width, height),
        (Some(width), None) => (width, own_height * width / own_width),
        (None, Some(height)) => (own_width * height / own_height, height),
        (None, None) => (own_width, own_height),
    };
    match fit {
        Fit::Fill => scale(picture, whole_picture(picture), width, height),
        Fit::Contain => {
            let factor = (width / own_width).min(height / own_height);
            scale(picture, whole_picture(picture), own_width * factor, own_height * factor)
        }
        Fit::Cover => {
            let factor = (width / own_width).max(height / own_height);
            let (kept_width, kept_height) =
                ((width / factor).min(own_width), (height / factor).min(own_height));
            let part = CropBox {
                left: (own_width - kept_width) / 2.0,
                top: (own_height - kept_height) / 2.0,
                width: kept_width,
                height: kept_height,
            };
            scale(picture, part, width, height)
        }
    }
}

/// The picture inside a square of `size`; a smaller one is not enlarged.
///
/// # Errors
/// As [`resize`].
pub(super) fn thumbnail(picture: &DynamicImage, size: u32) -> Result<DynamicImage, PictureFault> {
    if picture.width() <= size && picture.height() <= size {
        return Ok(picture.clone());
    }
    resize(picture, (Some(size), Some(size)), Fit::Contain)
}

/// Cuts a rectangle out.
///
/// # Errors
/// [`PictureFault::Rejected`] when it reaches outside the picture.
pub(super) fn crop(picture: &DynamicImage, crop: &Crop) -> Result<DynamicImage, PictureFault> {
    let (x, y, width, height) = (crop.x.0, crop.y.0, crop.width.0, crop.height.0);
    let reaches_out =
        |start: u32, length: u32, side: u32| u64::from(start) + u64::from(length) > u64::from(side);
    if reaches_out(x, width, picture.width()) || reaches_out(y, height, picture.height()) {
        return Err(PictureFault::Rejected(format!(
            "the crop {width} x {height} at {x}, {y} reaches outside the picture of {} x {}",
            picture.width(),
            picture.height()
        )));
    }
    Ok(picture.crop_imm(x, y, width, height))
}

/// Shades of grey; transparency stays.
pub(super) fn grayscale(picture: &DynamicImage) -> DynamicImage {
    picture.grayscale()
}

/// Gaussian blur. Clear pixels do not bleed their hidden colour into their neighbours.
pub(super) fn blur(picture: DynamicImage, sigma: f32) -> Result<DynamicImage, PictureFault> {
    let blurred = |picture: &DynamicImage| {
        if sigma < EXACT_BLUR_BELOW { picture.blur(sigma) } else { picture.fast_blur(sigma) }
    };
    let DynamicImage::ImageRgba8(mut rgba) = picture else { return Ok(blurred(&picture)) };
    with_pixels(&mut rgba, |pixels| MulDiv::new().multiply_alpha_inplace(pixels).map_err(unable))?;
    let mut rgba = blurred(&DynamicImage::ImageRgba8(rgba)).into_rgba8();
    with_pixels(&mut rgba, |pixels| MulDiv::new().divide_alpha_inplace(pixels).map_err(unable))?;
    Ok(DynamicImage::ImageRgba8(rgba))
}

fn with_pixels(
    picture: &mut RgbaImage,
    change: impl FnOnce(&mut Image<'_>) -> Result<(), PictureFault>,
) -> Result<(), PictureFault> {
    let (width, height) = picture.dimensions();
    let pixels: &mut [u8] = picture;
    change(&mut Image::from_slice_u8(width, height, pixels, PixelType::U8x4).map_err(unable)?)
}

fn whole_picture(picture: &DynamicImage) -> CropBox {
    CropBox { left: 0.0, top: 0.0, width: f64::from(picture.width()), height: f64::from(picture.height()) }
}

/// Scales a part of the picture to exactly this size, rounded to whole pixels, at least one a side.
fn scale(
    picture: &DynamicImage,
    part: CropBox,
    width: f64,
    height: f64,
) -> Result<DynamicImage, PictureFault> {
    let (width, height) = match (pixels(width), pixels(height)) {
        (Some(width), Some(height)) if u64::from(width) * u64::from(height) <= PIXELS_MAX => (width, height),
        _ => {
            return Err(PictureFault::Rejected(format!(
                "the result would have {width:.0} x {height:.0} pixels; at most 40 megapixels"
            )));
        }
    };
    let whole = whole_picture(picture);
    if columns_first((picture.width(), picture.height()), (width, height)) {
        let columns = CropBox { left: part.left, width: part.width, ..whole };
        let middle = scale_once(picture, columns, width, picture.height())?;
        let rows = CropBox { top: part.top, height: part.height, ..whole_picture(&middle) };
        scale_once(&middle, rows, width, height)
    } else {
        let rows = CropBox { top: part.top, height: part.height, ..whole };
        let middle = scale_once(picture, rows, picture.width(), height)?;
        let columns = CropBox { left: part.left, width: part.width, ..whole_picture(&middle) };
        scale_once(&middle, columns, width, height)
    }
}

/// Which axis is scaled first: the one that leaves the smaller picture in the middle. A strip of a million
/// pixels by one, scaled to a square, would else pass through gigabytes. As both middles multiplied are the
/// picture times the result, the smaller one is never larger than a picture may be.
fn columns_first(from: (u32, u32), to: (u32, u32)) -> bool {
    u64::from(to.0) * u64::from(from.1) <= u64::from(to.1) * u64::from(from.0)
}

fn scale_once(
    picture: &DynamicImage,
    part: CropBox,
    width: u32,
    height: u32,
) -> Result<DynamicImage, PictureFault> {
    let pixel = if picture.has_alpha() { PixelType::U8x4 } else { PixelType::U8x3 };
    let source =
        ImageRef::new(picture.width(), picture.height(), picture.as_bytes(), pixel).map_err(unable)?;
    let mut target = Image::new(width, height, pixel);
    let options = ResizeOptions { cropping: SrcCropping::Crop(part), ..ResizeOptions::default() };
    Resizer::new().resize(&source, &mut target, &options).map_err(unable)?;
    let bytes = target.into_vec();
    let scaled = if picture.has_alpha() {
        RgbaImage::from_raw(width, height, bytes).map(DynamicImage::ImageRgba8)
    } else {
        RgbImage::from_raw(width, height, bytes).map(DynamicImage::ImageRgb8)
    };
    scaled.ok_or_else(|| unable("the scaled picture has a wrong size"))
}

/// The nearest whole number of pixels, at least one; none beyond what a picture may have.
fn pixels(length: f64) -> Option<u32> {
    let length = nearest(length).max(1);
    (u64::from(length) <= PIXELS_MAX).then_some(length)
}

fn unable(error: impl std::fmt::Display) -> PictureFault {
    PictureFault::Rejected(format!("the picture cannot be changed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use image::{Rgba, RgbaImage};

    fn size(picture: &DynamicImage) -> (u32, u32) {
        (picture.width(), picture.height())
    }

    #[test]
    fn each_fit_has_its_exact_size() {
        let picture = testing::gradient(400, 200);
        for (asked, fit, expected) in [
            ((Some(100), None), Fit::Contain, (100, 50)),
            ((None, Some(100)), Fit::Contain, (200, 100)),
            ((Some(100), Some(100)), Fit::Contain, (100, 50)),
            ((Some(100), Some(20)), Fit::Contain, (40, 20)),
            ((Some(800), None), Fit::Contain, (800, 400)),
            ((Some(100), Some(100)), Fit::Cover, (100, 100)),
            ((Some(33), Some(77)), Fit::Cover, (33, 77)),
            ((Some(100), None), Fit::Cover, (100, 50)),
            ((Some(100), Some(100)), Fit::Fill, (100, 100)),
            ((Some(4096), Some(1)), Fit::Fill, (4096, 1)),
            ((Some(1), None), Fit::Contain, (1, 1)),
            ((Some(400), Some(200)), Fit::Contain, (400, 200)),
        ] {
            let result = resize(&picture, asked, fit).unwrap();
            assert_eq!(size(&result), expected, "{asked:?} {fit:?}");
        }
    }

    #[test]
    fn cover_fits_whatever_the_sizes() {
        for (own, asked) in (1..60).flat_map(|own| (1..60).map(move |asked| (own, asked))) {
            let picture = testing::gradient(own, 61 - own);
            let covered = resize(&picture, (Some(asked), Some(37)), Fit::Cover).unwrap();
            assert_eq!(size(&covered), (asked, 37), "{own} to {asked}");
        }
    }

    #[test]
    fn cover_keeps_the_middle_and_fill_keeps_all() {
        // red | green | blue, each a third
        let picture = testing::stripes(300, 100, &[[255, 0, 0], [0, 255, 0], [0, 0, 255]]);
        let covered = resize(&picture, (Some(50), Some(50)), Fit::Cover).unwrap().into_rgb8();
        assert!(covered.pixels().all(|p| p.0[1] > 200), "only the green middle is left");
        let filled = resize(&picture, (Some(60), Some(60)), Fit::Fill).unwrap().into_rgb8();
        assert_eq!(filled.get_pixel(5, 30).0, [255, 0, 0]);
        assert_eq!(filled.get_pixel(55, 30).0, [0, 0, 255]);
    }

    #[test]
    fn a_strip_cannot_grow_beyond_the_limit_nor_through_memory() {
        let strip = DynamicImage::ImageRgb8(RgbImage::new(200_000, 1));
        let refused = resize(&strip, (None, Some(4096)), Fit::Contain);
        assert!(matches!(refused, Err(PictureFault::Rejected(message)) if message.contains("40 megapixels")));
        assert_eq!(size(&resize(&strip, (Some(64), Some(4096)), Fit::Fill).unwrap()), (64, 4096));
    }

    #[test]
    fn the_picture_in_the_middle_is_never_larger_than_a_picture_may_be() {
        for from in [(40_000_000, 1), (1, 40_000_000), (8000, 5000), (1, 1)] {
            for to in [(4096, 4096), (4096, 1), (1, 4096), (4096, 9765)] {
                let middle: (u32, u32) =
                    if columns_first(from, to) { (to.0, from.1) } else { (from.0, to.1) };
                let pixels = u64::from(middle.0) * u64::from(middle.1);
                assert!(pixels <= PIXELS_MAX, "{from:?} to {to:?} through {middle:?}");
            }
        }
    }

    #[test]
    fn clear_pixels_lend_no_colour_when_scaled_or_blurred() {
        // clear red beside solid green: a careless average makes the seam brown
        let picture = DynamicImage::ImageRgba8(RgbaImage::from_fn(64, 64, |x, _| {
            if x < 32 { Rgba([255, 0, 0, 0]) } else { Rgba([0, 100, 0, 255]) }
        }));
        let scaled = resize(&picture, (Some(20), None), Fit::Contain).unwrap();
        for result in [scaled, blur(picture.clone(), 2.0).unwrap(), blur(picture.clone(), 9.0).unwrap()] {
            let brown = result.into_rgba8().pixels().find(|p| p.0[3] > 8 && p.0[0] > 20).copied();
            assert_eq!(brown, None);
        }
    }

    #[test]
    fn blur_spreads_with_its_sigma() {
        let picture = testing::halves(200, 40);
        let spread = |sigma| {
            let blurred = blur(picture.clone(), sigma).unwrap().into_rgb8();
            (0..200).filter(|x| (20..235).contains(&blurred.get_pixel(*x, 20).0[0])).count()
        };
        let widths = [spread(0.1), spread(1.0), spread(5.0), spread(30.0)];
        assert!(widths.windows(2).all(|pair| pair[0] < pair[1]), "{widths:?}");
    }

    #[test]
    fn a_crop_is_exact_and_stays_inside() {
        let picture = testing::stripes(30, 10, &[[255, 0, 0], [0, 255, 0], [0, 0, 255]]);
        let wish = |x, y, width, height| {
            serde_json::from_value::<Crop>(serde_json::json!({
                "file": greenroom_actors::ids::FileId::new(), "x": x, "y": y, "width": width, "height": height
            }))
            .unwrap()
        };
        let middle = crop(&picture, &wish(10, 2, 10, 8)).unwrap();
        assert_eq!(size(&middle), (10, 8));
        assert!(middle.into_rgb8().pixels().all(|p| p.0 == [0, 255, 0]));
        for outside in [wish(21, 0, 10, 10), wish(0, 3, 30, 8), wish(u32::MAX, 0, u32::MAX, 1)] {
            assert!(matches!(crop(&picture, &outside), Err(PictureFault::Rejected(_))));
        }
    }

    #[test]
    fn a_thumbnail_fits_its_square_and_is_never_enlarged() {
        assert_eq!(size(&thumbnail(&testing::gradient(300, 200), 90).unwrap()), (90, 60));
        assert_eq!(size(&thumbnail(&testing::gradient(30, 20), 90).unwrap()), (30, 20));
    }

    #[test]
    fn grey_has_no_colour_left() {
        let grey = grayscale(&testing::halves(8, 8)).into_rgb8();
        assert!(grey.pixels().all(|p| p.0[0] == p.0[1] && p.0[1] == p.0[2]));
        assert_ne!(grey.get_pixel(0, 0), grey.get_pixel(7, 0), "red and blue differ in lightness");
    }
}
