//! From pixels to a file: JPEG, PNG or WebP without any metadata.

use super::{PictureFault, request::Format};
use image::{DynamicImage, ExtendedColorType, ImageEncoder, Rgb, RgbImage, codecs};

/// JPEG quality: 90 is where faces and fabric still look untouched at about a third of the size of 100.
const JPEG_QUALITY: u8 = 90;

impl Format {
    /// The media type of the result.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
        }
    }

    /// The usual ending of a file name.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
        }
    }

    /// The widest and highest picture the format can hold.
    fn side_max(self) -> u32 {
        match self {
            Self::Jpeg => 65_535,
            Self::Png => u32::MAX,
            Self::Webp => 16_383,
        }
    }
}

/// Writes a picture. JPEG has no transparency: it is laid on white.
///
/// # Errors
/// [`PictureFault::Rejected`] when the format cannot hold a picture of this size.
pub(super) fn encode(picture: &DynamicImage, format: Format) -> Result<Vec<u8>, PictureFault> {
    let (width, height) = (picture.width(), picture.height());
    let side = format.side_max();
    if width > side || height > side {
        return Err(PictureFault::Rejected(format!(
            "a picture of {width} x {height} does not fit the format, which ends at {side} pixels a side"
        )));
    }
    let flat;
    let picture = if format == Format::Jpeg && picture.has_alpha() {
        flat = DynamicImage::ImageRgb8(on_white(picture));
        &flat
    } else {
        picture
    };
    let mut bytes = Vec::new();
    let colour: ExtendedColorType = picture.color().into();
    match format {
        Format::Jpeg => codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).write_image(
            picture.as_bytes(),
            width,
            height,
            colour,
        ),
        Format::Png => {
            codecs::png::PngEncoder::new(&mut bytes).write_image(picture.as_bytes(), width, height, colour)
        }
        Format::Webp => codecs::webp::WebPEncoder::new_lossless(&mut bytes).write_image(
            picture.as_bytes(),
            width,
            height,
            colour,
        ),
    }
    .map_err(|error| PictureFault::Rejected(format!("the result cannot be written: {error}")))?;
    Ok(bytes)
}

/// The picture without transparency, on white.
pub(super) fn on_white(picture: &DynamicImage) -> RgbImage {
    let rgba = picture.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        Rgb([r, g, b].map(|channel| mix(channel, 255, a)))
    })
}

/// `over` with the weight `alpha` of 255, `under` with the rest.
pub(super) fn mix(over: u8, under: u8, alpha: u8) -> u8 {
    let alpha = u32::from(alpha);
    let sum = u32::from(over) * alpha + u32::from(under) * (255 - alpha);
    u8::try_from((sum + 127) / 255).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{decode::decode, testing};
    use super::*;
    use image::{Rgba, RgbaImage};

    #[test]
    fn transparency_becomes_white_in_jpeg_and_stays_elsewhere() {
        let clear = DynamicImage::ImageRgba8(RgbaImage::from_pixel(16, 16, Rgba([200, 0, 0, 0])));
        let flat = decode(&encode(&clear, Format::Jpeg).unwrap()).unwrap().into_rgb8();
        assert!(flat.pixels().all(|p| p.0.iter().all(|c| *c > 250)));
        for format in [Format::Png, Format::Webp] {
            let kept = decode(&encode(&clear, format).unwrap()).unwrap();
            assert!(kept.into_rgba8().pixels().all(|p| p.0[3] == 0), "{format:?}");
        }
    }

    #[test]
    fn no_metadata_survives() {
        let photo = testing::with_orientation(&testing::jpeg(&testing::halves(16, 16)), 6);
        assert!(testing::contains(&photo, b"Exif"));
        for format in [Format::Jpeg, Format::Png, Format::Webp] {
            let bytes = encode(&decode(&photo).unwrap(), format).unwrap();
            assert!(!testing::contains(&bytes, b"Exif"), "{format:?}");
            assert!(!testing::contains(&bytes, b"EXIF"), "{format:?}");
        }
    }

    #[test]
    fn a_side_too_long_for_the_format_is_refused() {
        let strip = DynamicImage::ImageRgb8(RgbImage::new(16_384, 1));
        assert!(matches!(encode(&strip, Format::Webp), Err(PictureFault::Rejected(_))));
        assert!(encode(&strip, Format::Png).is_ok());
    }

    #[test]
    fn mixing_keeps_the_ends_exact() {
        assert_eq!((mix(9, 200, 255), mix(9, 200, 0), mix(0, 255, 128)), (9, 200, 127));
    }
}
