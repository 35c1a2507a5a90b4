//! Problems as text: the lines they are about, carets, labels and the hint.

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::problem::{Mark, Place, Problem, Source};

/// The longest stretch of source that is handed to the renderer, in bytes. Two
/// places further apart are shown one by one; a single longer line (a file
/// without line ends) is named and not shown.
const MAX_EXCERPT: usize = 16 << 10;

pub(crate) fn problem(problem: &Problem, color: bool) -> String {
    let mut group = Group::with_title(Level::ERROR.primary_title(problem.message.as_str()));
    if let Some(place) = &problem.place {
        group = locate(group, place);
    }
    if let Some(hint) = &problem.hint {
        group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
    }
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let text = renderer.render(&[group]);
    // Carets leave blanks at the ends of lines.
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

fn locate<'a>(group: Group<'a>, place: &'a Place) -> Group<'a> {
    let Some(mark) = &place.mark else {
        return group.element(Origin::path(place.source.path.display().to_string()));
    };
    let all: Vec<(AnnotationKind, &Mark)> = std::iter::once((AnnotationKind::Primary, mark))
        .chain(
            place
                .others
                .iter()
                .map(|mark| (AnnotationKind::Context, mark)),
        )
        .collect();
    if let Some(snippet) = excerpt(&place.source, &all) {
        return group.element(snippet);
    }
    all.iter().fold(group, |group, one| {
        match excerpt(&place.source, std::slice::from_ref(one)) {
            Some(snippet) => group.element(snippet),
            None => {
                let (line, column) = place.source.position(one.1.span.start);
                let path = place.source.path.display().to_string();
                group.element(Origin::path(path).line(line).char_column(column))
            }
        }
    })
}

/// The lines from the first to the last mark, unless they are too long.
fn excerpt<'a>(
    source: &'a Source,
    marks: &[(AnnotationKind, &'a Mark)],
) -> Option<Snippet<'a, Annotation<'a>>> {
    let text = source.text.as_str();
    let first = marks.iter().map(|(_, mark)| mark.span.start).min()?;
    let last = marks.iter().map(|(_, mark)| mark.span.end).max()?;
    let first = text.floor_char_boundary(first.min(text.len()));
    let last = text.ceil_char_boundary(last.min(text.len()));
    let start = text[..first].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[last..]
        .find('\n')
        .map_or(text.len(), |newline| last + newline);
    let end = text[last..end].strip_suffix('\r').map_or(end, |_| end - 1);
    if end - start > MAX_EXCERPT {
        return None;
    }
    let annotations = marks.iter().map(|(kind, mark)| {
        let from = text.floor_char_boundary(mark.span.start.min(text.len()));
        let to = text
            .ceil_char_boundary(mark.span.end.min(text.len()))
            .max(from);
        let annotation = kind.span(from - start..to - start);
        if mark.label.is_empty() {
            annotation
        } else {
            annotation.label(mark.label.as_str())
        }
    });
    Some(
        Snippet::source(&text[start..end])
            .line_start(source.position(start).0)
            .path(source.path.display().to_string())
            .annotations(annotations),
    )
}
