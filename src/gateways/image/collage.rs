//! Pictures laid out on a grid.

use super::{
    PictureFault,
    decode::{PIXELS_MAX, decode},
    encode::mix,
    ops,
    request::{Collage, Fit},
};
use bytes::Bytes;
use image::{DynamicImage, Rgb, RgbImage};

/// Lays the pictures row by row on the background, each whole and centred in its cell. The gap is
/// between cells, not around them. Pictures are decoded one after the other, so only one is in memory.
///
/// # Errors
/// [`PictureFault::Invalid`] for a broken picture, [`PictureFault::Rejected`] for a grid beyond what a picture may be.
pub(super) fn collage(wish: &Collage, pictures: &[Bytes]) -> Result<DynamicImage, PictureFault> {
    let (cell, gap, columns) = (wish.cell.0, wish.gap.0, wish.columns());
    let count = u32::try_from(pictures.len()).unwrap_or(u32::MAX);
    let rows = count.div_ceil(columns);
    let (width, height) = (columns * cell + (columns - 1) * gap, rows * cell + rows.saturating_sub(1) * gap);
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(PictureFault::Rejected(format!(
            "the collage would have {width} x {height} pixels; at most 40 megapixels"
        )));
    }
    let mut canvas = RgbImage::from_pixel(width, height, Rgb(wish.background.0));
    for (place, bytes) in (0..).zip(pictures) {
        let picture = ops::resize(&decode(bytes)?, (Some(cell), Some(cell)), Fit::Contain)?;
        let left = (place % columns) * (cell + gap) + (cell - picture.width()) / 2;
        let top = (place / columns) * (cell + gap) + (cell - picture.height()) / 2;
        lay(&mut canvas, &picture, left, top);
    }
    Ok(DynamicImage::ImageRgb8(canvas))
}

/// Lays a picture that fits on the canvas; its transparency shows what is below.
fn lay(canvas: &mut RgbImage, picture: &DynamicImage, left: u32, top: u32) {
    if let Some(opaque) = picture.as_rgb8() {
        // whole rows of bytes: by far the most common case
        let (row, start) = (canvas.width() as usize * 3, left as usize * 3);
        let from = opaque.as_raw().chunks_exact(opaque.width() as usize * 3);
        let to = canvas.chunks_exact_mut(row).skip(top as usize);
        for (from, to) in from.zip(to) {
            if let Some(to) = to.get_mut(start..start + from.len()) {
                to.copy_from_slice(from);
            }
        }
        return;
    }
    for (x, y, over) in picture.to_rgba8().enumerate_pixels() {
        let [r, g, b, alpha] = over.0;
        let under = canvas.get_pixel_mut(left + x, top + y);
        for (under, over) in under.0.iter_mut().zip([r, g, b]) {
            *under = mix(over, *under, alpha);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        request::{Operation, Request},
        testing,
    };
    use super::*;
    use image::{Rgba, RgbaImage};
    use serde_json::{Value, json};

    fn wish(count: usize, more: Value) -> Collage {
        let mut input = json!({"op": "collage", "files": vec![greenroom_actors::ids::FileId::new(); count]});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        match Request::parse(&input).unwrap().operation {
            Operation::Collage(collage) => collage,
            other => panic!("{other:?}"),
        }
    }

    fn plain(width: u32, height: u32, colour: [u8; 3]) -> Bytes {
        testing::png(&testing::stripes(width, height, &[colour])).into()
    }

    #[test]
    fn the_grid_has_the_size_its_numbers_say() {
        for (count, more, expected) in [
            (1, json!({}), (512, 512)),
            (4, json!({"cell": 100}), (200, 200)),
            (5, json!({"cell": 100}), (300, 200)),
            (3, json!({"cell": 100, "columns": 1, "gap": 10}), (100, 320)),
            (3, json!({"cell": 64, "columns": 4, "gap": 6}), (274, 64)),
            (16, json!({"cell": 1024, "gap": 0}), (4096, 4096)),
        ] {
            let picture = collage(&wish(count, more.clone()), &vec![plain(8, 8, [9, 9, 9]); count]).unwrap();
            assert_eq!((picture.width(), picture.height()), expected, "{count} {more}");
        }
    }

    #[test]
    fn pictures_keep_order_and_proportions_on_the_background() {
        let pictures = [plain(40, 20, [255, 0, 0]), plain(20, 40, [0, 255, 0])];
        let wish = wish(2, json!({"cell": 64, "gap": 4, "background": "#0000ff"}));
        let sheet = collage(&wish, &pictures).unwrap().into_rgb8();
        let at = |x, y| sheet.get_pixel(x, y).0;
        assert_eq!(at(32, 32), [255, 0, 0]);
        assert_eq!(at(32, 8), [0, 0, 255], "above the wide picture is background");
        assert_eq!(at(66, 32), [0, 0, 255], "the gap is background");
        assert_eq!(at(68 + 32, 32), [0, 255, 0]);
        assert_eq!(at(68 + 8, 32), [0, 0, 255], "beside the tall picture is background");
    }

    #[test]
    fn transparency_shows_the_background() {
        let clear = DynamicImage::ImageRgba8(RgbaImage::from_pixel(8, 8, Rgba([255, 0, 0, 0])));
        let sheet =
            collage(&wish(1, json!({"cell": 64, "background": "#102030"})), &[testing::png(&clear).into()]);
        assert!(sheet.unwrap().into_rgb8().pixels().all(|p| p.0 == [0x10, 0x20, 0x30]));
    }

    #[test]
    fn one_broken_picture_is_invalid() {
        let pictures = [plain(8, 8, [1, 2, 3]), Bytes::from_static(b"nothing")];
        assert!(matches!(collage(&wish(2, json!({})), &pictures), Err(PictureFault::Invalid(_))));
    }

    #[test]
    fn a_grid_beyond_the_limit_is_rejected() {
        let wish = wish(16, json!({"cell": 1024, "columns": 15, "gap": 256}));
        let refused = collage(&wish, &vec![plain(8, 8, [1, 1, 1]); 16]);
        assert!(matches!(refused, Err(PictureFault::Rejected(message)) if message.contains("18944 x 2304")));
    }
}
