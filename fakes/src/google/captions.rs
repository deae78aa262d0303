//! Reads from the texts of a request which of its pictures are products and which are references.

use drawing::Input;
use image::DynamicImage;

/// How many pictures without a caption are products. Further ones are references.
const MAX_UNCAPTIONED_PRODUCTS: usize = 3;

/// A text or a photo of the user, in the order of the request.
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Photo(DynamicImage),
}

/// Separates the prompt from the captions, and the products from the references.
///
/// The protocols have no roles for pictures, so a client says in a caption what each is. A text directly before a picture
/// is its caption, unless no other text is left for the prompt. A caption with `reference`, `style` or `model` makes the
/// picture a reference.
pub(crate) fn read_captions(pieces: Vec<Piece<'_>>) -> (String, Vec<Input>) {
    let captions = |(index, piece): (usize, &Piece<'_>)| {
        matches!(piece, Piece::Text(_)) && matches!(pieces.get(index + 1), Some(Piece::Photo(_)))
    };
    let mut captions: Vec<bool> = pieces.iter().enumerate().map(captions).collect();
    let is_text = |piece: &Piece<'_>| matches!(piece, Piece::Text(_));
    if let Some(first) = pieces.iter().position(is_text)
        && (pieces.iter().zip(&captions)).all(|(piece, caption)| *caption || !is_text(piece))
    {
        captions[first] = false;
    }

    let mut words = Vec::new();
    let mut inputs: Vec<Input> = Vec::new();
    let mut captioned = None;
    for (piece, caption) in pieces.into_iter().zip(captions) {
        match piece {
            Piece::Text(text) if caption => {
                let text = text.to_lowercase();
                let reference = ["reference", "style", "model"];
                captioned = Some(reference.iter().any(|word| text.contains(word)));
            }
            Piece::Text(text) => words.push(text),
            Piece::Photo(picture) => {
                let reference = captioned.unwrap_or(inputs.len() >= MAX_UNCAPTIONED_PRODUCTS);
                inputs.push(Input { picture, reference });
            }
        }
    }
    (words.join(" "), inputs)
}
