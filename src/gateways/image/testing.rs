//! Pictures made for tests.

use image::{DynamicImage, ImageEncoder, Rgb, RgbImage, codecs};

/// Every pixel another colour, as far as bytes go.
pub(super) fn gradient(width: u32, height: u32) -> DynamicImage {
    let byte = |part: u32, whole: u32| u8::try_from(part * 255 / whole.max(1)).unwrap();
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([byte(x, width), byte(y, height), byte(x + y, width + height)])
    })
    .into()
}

/// Upright stripes of equal width.
pub(super) fn stripes(width: u32, height: u32, colours: &[[u8; 3]]) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, _| {
        Rgb(colours[usize::try_from(x).unwrap() * colours.len() / usize::try_from(width).unwrap()])
    })
    .into()
}

/// Left red, right blue.
pub(super) fn halves(width: u32, height: u32) -> DynamicImage {
    stripes(width, height, &[[255, 0, 0], [0, 0, 255]])
}

pub(super) fn jpeg(picture: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(picture).unwrap();
    bytes
}

pub(super) fn png(picture: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (width, height) = (picture.width(), picture.height());
    codecs::png::PngEncoder::new(&mut bytes)
        .write_image(picture.as_bytes(), width, height, picture.color().into())
        .unwrap();
    bytes
}

/// The JPEG with an EXIF block that holds nothing but an orientation.
pub(super) fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat()
}

/// A PNG that says how large it is and then holds next to nothing.
pub(super) fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(&halves(2, 2));
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg()))
    })
}

pub(super) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
