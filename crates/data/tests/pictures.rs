//! Image files as folders, single pictures and masks: one reader for all, and nothing is lost without a word.

use candle_core::Tensor;
use flate2::Crc;
use image::codecs::jpeg::JpegEncoder;
use image::{
    DynamicImage, ExtendedColorType, GrayImage, ImageBuffer, ImageEncoder, ImageFormat, Luma, LumaA, Rgb, RgbImage,
    Rgba, RgbaImage,
};
use jpeg_encoder::{ColorType, Encoder};
use langevin_data::{Dataset, Options, mask, open, picture};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

/// A folder with these files, and how it opens.
fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn data(dir: &TempDir) -> Box<dyn Dataset> {
    with(dir, Options::default())
}

fn with(dir: &TempDir, options: Options) -> Box<dyn Dataset> {
    open(dir.path().to_str().unwrap(), &options).unwrap()
}

fn bytes_of(x: &Tensor) -> Vec<u8> {
    let x: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
    x.into_iter().map(|x| ((x + 1.) * 127.5).round() as u8).collect()
}

/// The bytes of image `i`, [C, H, W].
fn image(data: &dyn Dataset, i: usize) -> Vec<u8> {
    bytes_of(&data.get(&[i]).unwrap().x)
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut out = std::io::Cursor::new(vec![]);
    image.write_to(&mut out, format).unwrap();
    out.into_inner()
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    encoded(&image.into(), ImageFormat::Png)
}

/// A picture in which every pixel differs from its neighbours.
fn coloured(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 11 % 256) as u8, (y * 13 % 256) as u8, ((x + 3 * y) * 7 % 256) as u8])
    })
}

/// The block of EXIF that says how an image is to be turned.
fn exif(orientation: u16) -> Vec<u8> {
    let mut tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01".to_vec();
    tiff.extend(orientation.to_be_bytes());
    tiff.extend([0; 6]);
    tiff
}

fn jpeg(image: &RgbImage, exif: Option<Vec<u8>>) -> Vec<u8> {
    let mut out = vec![];
    let mut encoder = JpegEncoder::new_with_quality(&mut out, 95);
    exif.into_iter().for_each(|exif| encoder.set_exif_metadata(exif).unwrap());
    encoder.write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8).unwrap();
    out
}

/// Where the pixel (x, y) of the upright image is in one stored `w` x `h`. [EXIF 2.3, tag 0x0112]
fn stored(orientation: u16, x: u32, y: u32, w: u32, h: u32) -> (u32, u32) {
    match orientation {
        1 => (x, y),
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        _ => (w - 1 - y, x),
    }
}

#[test]
fn every_orientation_is_turned_upright_in_its_own_shape() {
    let (w, h) = (24, 16);
    let plain = coloured(w, h);
    let reference = image(&*data(&folder(&[("a.jpg", jpeg(&plain, None))])), 0);
    let area = (w * h) as usize;
    for orientation in 1..=8 {
        let dir = folder(&[("a.jpg", jpeg(&plain, Some(exif(orientation))))]);
        let (width, height) = if orientation < 5 { (w, h) } else { (h, w) };
        let set = data(&dir);
        assert_eq!(set.shape(), [3, height as usize, width as usize], "orientation {orientation}");
        assert!(set.notes().is_empty(), "{:?}", set.notes());
        let upright: Vec<u8> = (0..3 * area)
            .map(|i| {
                let (x, y) = ((i % area) as u32 % width, (i % area) as u32 / width);
                let (sx, sy) = stored(orientation, x, y, w, h);
                reference[i / area * area + (sy * w + sx) as usize]
            })
            .collect();
        assert_eq!(image(&*set, 0), upright, "orientation {orientation}");
        let alone = picture(&dir.path().join("a.jpg"), &[3, height as usize, width as usize]).unwrap();
        assert_eq!((bytes_of(&alone.x), alone.notes), (upright, vec![]));
    }
}

/// A JPEG with a smaller one in its EXIF, as cameras put there.
fn with_preview(image: &RgbImage) -> Vec<u8> {
    let preview = jpeg(&coloured(8, 8), None);
    let mut segment = b"\xff\xe1".to_vec();
    segment.extend(((2 + 6 + preview.len()) as u16).to_be_bytes());
    segment.extend(b"Exif\0\0");
    segment.extend(preview);
    let whole = jpeg(image, None);
    [&whole[..2], &segment, &whole[2..]].concat()
}

fn by_other_encoder(image: &RgbImage, progressive: bool) -> Vec<u8> {
    let mut out = vec![];
    let mut encoder = Encoder::new(&mut out, 90);
    encoder.set_progressive(progressive);
    encoder.set_restart_interval(3);
    encoder.encode(image.as_raw(), image.width() as u16, image.height() as u16, ColorType::Rgb).unwrap();
    out
}

/// Cut anywhere, an image is skipped with a note, or all of its pixels are there.
#[test]
fn what_is_cut_short_is_skipped_and_told() {
    let picture = coloured(40, 32);
    let whole: Vec<(&str, Vec<u8>)> = vec![
        ("b.jpg", jpeg(&picture, None)),
        ("b.jpg", with_preview(&picture)),
        ("b.jpg", by_other_encoder(&picture, false)),
        ("b.jpg", by_other_encoder(&picture, true)),
        ("b.png", png(picture.clone())),
        ("b.gif", encoded(&picture.clone().into(), ImageFormat::Gif)),
        ("b.bmp", encoded(&picture.clone().into(), ImageFormat::Bmp)),
        ("b.webp", encoded(&picture.clone().into(), ImageFormat::WebP)),
    ];
    let good = png(picture.clone());
    for (name, bytes) in whole {
        let all = |bytes: &[u8]| data(&folder(&[("a.png", good.clone()), (name, bytes.to_vec())]));
        let set = all(&bytes);
        assert!(set.len() == 2 && set.notes().is_empty(), "{name}: {:?}", set.notes());
        let reference = image(&*set, 1);
        let mut skipped = 0;
        for percent in [5, 20, 45, 60, 80, 90, 95, 98, 99] {
            let set = all(&bytes[..bytes.len() * percent / 100]);
            if set.len() == 2 {
                assert_eq!(image(&*set, 1), reference, "{name} of which {percent}% is there");
                assert!(percent > 95, "{name}: so much cannot be spared");
                continue;
            }
            skipped += 1;
            assert!(set.notes().len() == 1 && set.notes()[0].contains(name), "{name}: {:?}", set.notes());
        }
        assert!(skipped >= 7, "{name}");
        if name.ends_with("jpg") {
            let set = all(&bytes[..bytes.len() - 2]);
            assert!(set.notes()[0].contains("cut short"), "{:?}", set.notes());
            let more = [&bytes[..], b"trailing data of a camera"].concat();
            assert_eq!(image(&*all(&more), 1), reference, "what follows the end does no harm");
        }
    }
}

#[test]
fn many_skipped_files_share_a_line() {
    for count in [1, 3, 4, 300] {
        let mut files = vec![("a.png".to_string(), png(coloured(8, 8)))];
        files.extend((0..count).map(|i| (format!("{i:03}.txt"), b"a caption".to_vec())));
        files.extend((0..count).map(|i| (format!("{i:03}.jpg"), b"no image".to_vec())));
        let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        let notes = data(&folder(&files)).notes();
        match count {
            1 | 3 => assert_eq!(notes.len(), 2 * count, "{notes:?}"),
            _ => {
                assert_eq!(notes.len(), 2, "{notes:?}");
                assert!(
                    notes[0].contains(&format!("{count} images that cannot be read")) && notes[0].contains("000.jpg")
                );
                assert!(
                    notes[1].contains(&format!("{count} files that are not images")) && notes[1].contains("000.txt")
                );
            }
        }
    }
}

/// Images of 16 bits that hold `bits`.
fn deep(bits: u32) -> Vec<(&'static str, DynamicImage)> {
    let v = |x: u32, y: u32| ((x + 8 * y) * ((1 << bits) - 1) / 63) as u16;
    vec![
        ("a.png", ImageBuffer::from_fn(8, 8, |x, y| Luma([v(x, y)])).into()),
        ("b.png", ImageBuffer::from_fn(8, 8, |x, y| LumaA([v(x, y), 65535])).into()),
        ("c.png", ImageBuffer::from_fn(8, 8, |x, y| Rgb([v(x, y), v(y, x), 0])).into()),
    ]
}

#[test]
fn sixteen_bits_that_are_not_all_used_are_told() {
    for (bits, levels) in [(10, 5), (12, 17), (14, 65), (15, 128)] {
        for (name, image) in deep(bits) {
            let dir = folder(&[("plain.png", png(coloured(8, 8))), (name, png(image))]);
            for on_demand in [false, true] {
                let notes = with(&dir, Options { on_demand, ..Options::default() }).notes();
                let all = [
                    format!("{} of 65535", (1 << bits) - 1),
                    format!("{levels} of 256 grey levels"),
                    format!("by {}", 1 << (16 - bits)),
                ];
                assert!(all.iter().all(|part| notes[0].contains(part)), "{name}: {notes:?}");
                // those with a second or fourth channel have a note of it
                let layered = notes.iter().filter(|note| note.contains("transparency")).count();
                assert!(layered <= 1 && notes.len() == 1 + layered, "{name}: {notes:?}");
            }
            let notes = picture(&dir.path().join(name), &[3, 8, 8]).unwrap().notes;
            assert!(notes.len() == 1 && notes[0].contains(name) && notes[0].contains("grey levels"), "{notes:?}");
        }
    }
    for (name, image) in deep(16) {
        let dir = folder(&[(name, png(image)), ("dark.png", png(ImageBuffer::from_pixel(8, 8, Luma([9u16]))))]);
        assert!(data(&dir).notes().iter().all(|note| note.contains("transparency")), "{:?}", data(&dir).notes());
        let last = self::image(&*data(&dir), 0)[63];
        assert!(last == 255 || last == 0, "{last}");
    }
}

#[test]
fn colours_become_grey_by_rec_601_everywhere() {
    let dir = tempdir().unwrap();
    let path = |i: usize| dir.path().join(format!("{i}.png"));
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50], [255, 255, 255], [7, 7, 7]];
    for (i, colour) in colours.iter().enumerate() {
        RgbImage::from_pixel(8, 8, Rgb(*colour)).save(path(i)).unwrap();
    }
    // what Pillow's convert("L") gives
    let greys = [76, 150, 29, 124, 255, 7];
    let set = with(&dir, Options { shape: Some(vec![1, 8, 8]), ..Options::default() });
    for (i, grey) in greys.into_iter().enumerate() {
        assert_eq!(image(&*set, i), [grey; 64]);
        assert_eq!(bytes_of(&picture(&path(i), &[1, 8, 8]).unwrap().x), [grey; 64]);
    }
}

/// An indexed PNG with this palette, its pixels 0, 1, 2, ... over and over.
fn indexed(palette: &[[u8; 3]], transparency: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let mut encoder = png::Encoder::new(&mut out, 8, 6);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette.concat());
    if !transparency.is_empty() {
        encoder.set_trns(transparency.to_vec());
    }
    let pixels: Vec<u8> = (0..48).map(|i| (i % palette.len()) as u8).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    out
}

#[test]
fn a_palette_of_greys_is_grey() {
    let greys = indexed(&[[0; 3], [90; 3], [255; 3]], &[]);
    let colours = indexed(&[[0; 3], [90, 91, 90]], &[]);
    let gif = |image: RgbImage| encoded(&image.into(), ImageFormat::Gif);
    let grey = RgbImage::from_fn(8, 6, |x, y| Rgb([if (x + y) % 2 == 0 { 0 } else { 255 }; 3]));
    for on_demand in [false, true] {
        let channels =
            |files: &[(&str, Vec<u8>)]| with(&folder(files), Options { on_demand, ..Options::default() }).shape()[0];
        assert_eq!(channels(&[("a.png", greys.clone())]), 1);
        assert_eq!(channels(&[("a.png", greys.clone()), ("b.gif", gif(grey.clone()))]), 1);
        assert_eq!(channels(&[("a.png", indexed(&[[0; 3], [90; 3], [255, 0, 0]], &[255, 255, 0]))]), 1);
        assert_eq!(channels(&[("a.png", greys.clone()), ("b.png", colours.clone())]), 3);
        assert_eq!(channels(&[("a.gif", gif(RgbImage::from_pixel(8, 6, Rgb([250, 0, 0]))))]), 3);
        assert_eq!(channels(&[("a.png", greys.clone()), ("b.png", png(coloured(8, 6)))]), 3);
    }
    let set = data(&folder(&[("a.png", indexed(&[[0; 3], [90; 3]], &[255, 128]))]));
    // 90 under half an opacity over white
    assert_eq!(image(&*set, 0)[..3], [0, 172, 0]);
}

/// One picture is what it is in a folder, whatever it is like.
#[test]
fn a_picture_alone_is_as_in_a_folder() {
    let half = RgbaImage::from_fn(30, 20, |x, y| {
        Rgba([(x * 8) as u8, 100, (y * 12) as u8, if y < 10 { 0 } else { (x * 8) as u8 }])
    });
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("alpha.png", png(half.clone())),
        ("alpha.webp", encoded(&half.into(), ImageFormat::WebP)),
        ("bits.png", png(deep(16).remove(2).1)),
        ("grey.png", png(GrayImage::from_fn(21, 33, |x, y| Luma([(x * y % 256) as u8])))),
        ("lying.jpg", jpeg(&coloured(40, 24), Some(exif(6)))),
        ("palette.png", indexed(&[[0, 0, 90], [90, 0, 0], [255; 3]], &[0, 255, 128])),
        ("small.bmp", encoded(&coloured(5, 4).into(), ImageFormat::Bmp)),
    ];
    let dir = folder(&files);
    for shape in [[3, 24, 24], [1, 16, 16], [3, 12, 20], [1, 32, 8]] {
        let set = with(&dir, Options { shape: Some(shape.to_vec()), ..Options::default() });
        assert_eq!((set.len(), set.shape()), (files.len(), &shape[..]));
        for (i, (name, _)) in files.iter().enumerate() {
            let alone = picture(&dir.path().join(name), &shape).unwrap();
            assert_eq!(bytes_of(&alone.x), image(&*set, i), "{name} as {shape:?}");
            assert!(alone.notes.is_empty(), "{:?}", alone.notes);
        }
    }
    // transparent is white, and images of one size keep it
    let x = picture(&dir.path().join("alpha.png"), &[3, 20, 30]).unwrap();
    assert!(bytes_of(&x.x)[..300] == [255; 300] && x.notes.is_empty());
    assert!(picture(&dir.path().join("alpha.png"), &[2]).unwrap_err().to_string().contains("[2]"));
    assert!(picture(Path::new("nothing.png"), &[1, 8, 8]).unwrap_err().to_string().starts_with("nothing.png: "));
}

/// Images go to the shape of the model directly: not by way of a smaller one.
#[test]
fn a_shape_that_is_not_square_keeps_its_pixels() {
    let dir = folder(&[("a.png", png(coloured(48, 24))), ("b.png", png(coloured(96, 48)))]);
    let set = with(&dir, Options { shape: Some(vec![3, 24, 48]), ..Options::default() });
    let plain = coloured(48, 24);
    let first: Vec<u8> = (0..3).flat_map(|c| plain.pixels().map(move |pixel| pixel[c])).collect();
    assert_eq!(image(&*set, 0), first);
    // and turned ones too
    let spec = format!("rotate:90={}", dir.path().display());
    let turned = open(&spec, &Options { shape: Some(vec![3, 48, 24]), ..Options::default() }).unwrap();
    let x = image(&*turned, 0);
    assert_eq!((x[0], x[23]), (first[23 * 48], first[0]), "the lower left corner comes to the upper left");
}

fn mask_file(image: impl Into<DynamicImage>) -> (TempDir, PathBuf) {
    let dir = folder(&[("m.png", png(image))]);
    let path = dir.path().join("m.png");
    (dir, path)
}

#[track_caller]
fn right_half_is_hidden(image: impl Into<DynamicImage>) {
    let (_dir, path) = mask_file(image);
    for (h, w) in [(16, 16), (8, 8), (32, 32), (12, 12)] {
        let hidden = mask(&path, h, w).unwrap().hidden;
        assert_eq!(hidden, (0..h * w).map(|i| i % w >= w / 2).collect::<Vec<_>>(), "{h}x{w}");
    }
}

#[test]
fn masks_of_every_kind_hide_what_is_white_or_painted() {
    let half = |x: u32| if x < 8 { 0u8 } else { 255 };
    right_half_is_hidden(GrayImage::from_fn(16, 16, |x, _| Luma([if x < 8 { 127 } else { 128 }])));
    right_half_is_hidden(RgbImage::from_fn(16, 16, |x, _| Rgb([half(x); 3])));
    // layers of one colour, of which the opaque part is the mask
    for colour in [[255, 255, 255], [255, 0, 0], [0, 0, 0]] {
        let [r, g, b] = colour;
        right_half_is_hidden(RgbaImage::from_fn(16, 16, |x, _| Rgba([r, g, b, half(x)])));
        right_half_is_hidden(RgbaImage::from_fn(16, 16, |x, _| Rgba([r, g, b, if x < 8 { 60 } else { 200 }])));
        right_half_is_hidden(RgbaImage::from_fn(
            16,
            16,
            |x, _| if x < 8 { Rgba([0; 4]) } else { Rgba([r, g, b, 255]) },
        ));
    }
    right_half_is_hidden(ImageBuffer::from_fn(16, 16, |x, _| LumaA([255u8, half(x)])));
    // white on black with an alpha that says nothing, and with holes in the black
    right_half_is_hidden(RgbaImage::from_fn(16, 16, |x, _| Rgba([half(x), half(x), half(x), 255])));
    right_half_is_hidden(RgbaImage::from_fn(16, 16, |x, y| {
        Rgba([half(x), half(x), half(x), if x < 8 && y < 8 { 0 } else { 255 }])
    }));
    right_half_is_hidden(ImageBuffer::from_fn(16, 16, |x, _| Luma([u16::from(half(x)) * 257])));

    let bits = |color, palette: Option<Vec<u8>>| {
        let mut out = vec![];
        let mut encoder = png::Encoder::new(&mut out, 16, 16);
        encoder.set_color(color);
        encoder.set_depth(png::BitDepth::One);
        palette.into_iter().for_each(|palette| encoder.set_palette(palette));
        encoder.write_header().unwrap().write_image_data(&[0x00, 0xff].repeat(16)).unwrap();
        out
    };
    for bytes in [
        bits(png::ColorType::Grayscale, None),
        bits(png::ColorType::Indexed, Some(vec![0, 0, 0, 255, 255, 255])),
        bits(png::ColorType::Indexed, Some(vec![10, 20, 10, 240, 200, 250])),
    ] {
        let dir = folder(&[("m.png", bytes)]);
        let hidden = mask(&dir.path().join("m.png"), 16, 16).unwrap().hidden;
        assert_eq!(hidden, (0..256).map(|i| i % 16 >= 8).collect::<Vec<_>>());
    }
}

#[test]
fn masks_that_hide_nothing_or_everything_are_told() {
    let (_dir, path) = mask_file(GrayImage::from_fn(16, 16, |x, _| Luma([(x > 7) as u8])));
    let why = mask(&path, 16, 16).unwrap_err().to_string();
    assert!(why.contains("m.png") && why.contains("hides nothing") && why.contains("1 of 255"), "{why}");
    let (_dir, path) = mask_file(RgbaImage::from_pixel(16, 16, Rgba([255; 4])));
    let all = mask(&path, 8, 8).unwrap();
    assert!(
        all.hidden == [true; 64] && all.notes.iter().any(|note| note.contains("hides everything")),
        "{:?}",
        all.notes
    );
    let (_dir, path) = mask_file(RgbaImage::from_fn(16, 16, |_, y| Rgba([255, 255, 255, (y * 17) as u8])));
    assert!(mask(&path, 16, 16).unwrap().notes[0].contains("opaque is hidden"));
}

/// A PNG of zeros that claims to be so large, in a file of a few bytes.
fn claims(width: u32, height: u32) -> Vec<u8> {
    let chunk = |kind: &[u8], data: &[u8]| {
        let mut crc = Crc::new();
        crc.update(&[kind, data].concat());
        [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 0x9c]), chunk(b"IEND", &[])]
        .concat()
}

#[test]
fn images_far_larger_than_their_files_are_refused() {
    let good = png(coloured(8, 8));
    for (width, height) in [(20_000, 20_000), (4, 100_000_000), (2_000_000, 200), (u32::MAX >> 1, u32::MAX >> 1)] {
        let dir = folder(&[("a.png", good.clone()), ("b.png", claims(width, height))]);
        for on_demand in [false, true] {
            let set = with(&dir, Options { on_demand, ..Options::default() });
            assert!(set.len() == 1 && set.notes()[0].contains("b.png"), "{:?}", set.notes());
        }
        assert!(picture(&dir.path().join("b.png"), &[1, 8, 8]).is_err());
        assert!(mask(&dir.path().join("b.png"), 8, 8).is_err());
    }
    let why = picture(&folder(&[("b.png", claims(20_000, 20_000))]).path().join("b.png"), &[1, 8, 8]).unwrap_err();
    assert!(why.to_string().contains("are too many"), "{why}");
}

#[test]
fn images_decoded_on_demand_are_the_same_and_bad_ones_are_named() {
    let mut files: Vec<(String, Vec<u8>)> = (0..9).map(|i| (format!("{i}.png"), png(coloured(10 + i, 9)))).collect();
    files.push(("bad.png".into(), png(coloured(16, 16))[..120].to_vec()));
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let dir = folder(&files);
    let (all, some) = (data(&dir), with(&dir, Options { on_demand: true, ..Options::default() }));
    assert_eq!((all.len(), some.len()), (9, 10));
    assert!(all.notes().iter().any(|note| note.contains("bad.png")), "{:?}", all.notes());
    let idx = [8, 0, 3, 3];
    assert_eq!(bytes_of(&all.get(&idx).unwrap().x), bytes_of(&some.get(&idx).unwrap().x));
    let why = some.get(&[1, 9]).unwrap_err().to_string();
    assert!(why.contains("bad.png") && !why.contains('\n'), "{why}");
    assert_eq!(some.files().unwrap().len(), 10);
}
