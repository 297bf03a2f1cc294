//! From a file's bytes to upright 8-bit pixels, within limits that hold before a pixel is decoded.

use super::PictureFault;
use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, codecs::png::PngDecoder,
    metadata::Orientation,
};
use std::io::Cursor;

/// The most pixels a picture may have.
pub(super) const PIXELS_MAX: u64 = 40_000_000;

/// What a decoder may allocate: 40 megapixels of four 16-bit channels (320 MB) and room for its tables.
const ALLOCATION_MAX: u64 = 384 * 1024 * 1024;

/// Decodes a JPEG, PNG or WebP picture, turned as its EXIF orientation says. The result is RGB or
/// RGBA with 8 bits a channel and carries no metadata.
///
/// # Errors
/// [`PictureFault::Invalid`] for another format, broken or cut-off data, or more than [`PIXELS_MAX`] pixels.
pub(super) fn decode(bytes: &[u8]) -> Result<DynamicImage, PictureFault> {
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| PictureFault::Invalid(format!("the picture cannot be read: {error}")))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(ALLOCATION_MAX);
    match reader.format() {
        Some(ImageFormat::Jpeg) => {
            if !jpeg_is_whole(bytes) {
                return Err(PictureFault::Invalid("the JPEG picture is cut off".to_owned()));
            }
            finish(image::codecs::jpeg::JpegDecoder::new(reader.into_inner()).map_err(broken)?, limits)
        }
        Some(ImageFormat::Png) => {
            let decoder = PngDecoder::with_limits(reader.into_inner(), limits.clone()).map_err(broken)?;
            finish(decoder, limits)
        }
        Some(ImageFormat::WebP) => {
            finish(image::codecs::webp::WebPDecoder::new(reader.into_inner()).map_err(broken)?, limits)
        }
        _ => Err(PictureFault::Invalid("the file is no JPEG, PNG or WebP picture".to_owned())),
    }
}

fn finish(mut decoder: impl ImageDecoder, mut limits: Limits) -> Result<DynamicImage, PictureFault> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(PictureFault::Invalid("the picture is empty".to_owned()));
    }
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(PictureFault::Invalid(format!(
            "the picture has {width} x {height} pixels; at most 40 megapixels"
        )));
    }
    limits.reserve(decoder.total_bytes()).map_err(broken)?;
    decoder.set_limits(limits).map_err(broken)?;
    // an unreadable EXIF block is no reason to refuse the picture
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    let mut picture = if picture.has_alpha() {
        DynamicImage::ImageRgba8(picture.into_rgba8())
    } else {
        DynamicImage::ImageRgb8(picture.into_rgb8())
    };
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn broken(error: image::ImageError) -> PictureFault {
    PictureFault::Invalid(format!("the picture is broken: {error}"))
}

/// Whether a JPEG reaches its end marker. The decoder paints what is missing grey and says nothing.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: u8 = 0xD9;
    let mut rest = bytes.get(2..).unwrap_or_default(); // the start marker
    let mut in_scan = false;
    loop {
        // markers are 0xFF and a code; in a scan 0xFF 0x00 is data, 0xFF 0xD0..0xD7 restarts it
        let Some(at) = rest.iter().position(|byte| *byte == 0xFF) else { return false };
        rest = &rest[at..];
        let Some(code) = rest.get(1).copied() else { return false };
        match code {
            0xFF => rest = &rest[1..], // padding
            0x00 | 0x01 | 0xD0..=0xD8 => rest = &rest[2..],
            END_OF_IMAGE => return in_scan,
            _ => {
                let Some(&[high, low]) = rest.get(2..4) else { return false };
                let length = usize::from(u16::from_be_bytes([high, low]));
                let Some(after) = rest.get(2 + length..) else { return false };
                rest = after;
                in_scan |= code == START_OF_SCAN;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{encode::encode, request::Format, testing};
    use super::*;

    #[test]
    fn each_format_is_read_back() {
        let picture = testing::gradient(40, 30);
        for format in [Format::Jpeg, Format::Png, Format::Webp] {
            let decoded = decode(&encode(&picture, format).unwrap()).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (40, 30), "{format:?}");
        }
    }

    #[test]
    fn deep_and_grey_pictures_become_8_bit_colour() {
        let deep = DynamicImage::ImageRgba16(testing::gradient(8, 8).into_rgba16());
        let grey = DynamicImage::ImageLuma8(testing::gradient(8, 8).into_luma8());
        assert!(matches!(decode(&testing::png(&deep)).unwrap(), DynamicImage::ImageRgba8(_)));
        assert!(matches!(decode(&testing::png(&grey)).unwrap(), DynamicImage::ImageRgb8(_)));
    }

    #[test]
    fn a_photo_lying_on_its_side_is_turned_upright() {
        // left half red, right half blue; orientation 6 shows it turned a quarter clockwise: red above
        let photo = testing::with_orientation(&testing::jpeg(&testing::halves(64, 32)), 6);
        let picture = decode(&photo).unwrap();
        assert_eq!((picture.width(), picture.height()), (32, 64));
        let rgb = picture.into_rgb8();
        assert!(rgb.get_pixel(16, 8).0[0] > 200, "red above");
        assert!(rgb.get_pixel(16, 56).0[2] > 200, "blue below");
    }

    #[test]
    fn what_is_no_picture_is_invalid() {
        for bytes in [
            &b""[..],
            b"\xFF",
            b"<html></html>",
            b"GIF89a\x01\x00\x01\x00",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF____WEBP",
        ] {
            assert!(matches!(decode(bytes), Err(PictureFault::Invalid(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_cut_file_is_invalid_wherever_it_is_cut() {
        let picture = testing::gradient(64, 64);
        for format in [Format::Jpeg, Format::Png, Format::Webp] {
            let bytes = encode(&picture, format).unwrap();
            for part in 1..10 {
                let cut = &bytes[..bytes.len() * part / 10];
                assert!(matches!(decode(cut), Err(PictureFault::Invalid(_))), "{format:?} cut at {part}/10");
            }
        }
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_decoding() {
        let bomb = testing::png_header(50_000, 50_000);
        let Err(PictureFault::Invalid(message)) = decode(&bomb) else { panic!("accepted") };
        assert!(message.contains("50000 x 50000"), "{message}");
    }
}
