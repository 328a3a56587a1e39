//! Rows of several runs in key order.

use std::sync::Arc;

use crate::{
    error::IndexError,
    page::Page,
    run::{Pages, Run},
};

/// The rows of a run from a key on, page by page.
pub struct Rows<'a> {
    run: &'a Run,
    /// None reads from the file alone.
    pages: Option<&'a Pages>,
    page: Arc<Page>,
    next_page: u32,
    row: usize,
}

impl<'a> Rows<'a> {
    /// The rows whose keys are not less than `from`.
    pub fn new(run: &'a Run, pages: Option<&'a Pages>, from: &[u8]) -> Result<Self, IndexError> {
        let page = Arc::new(Page::decode(&[]).expect("no rows are a page"));
        let next_page = run.first_page(from)?;
        let mut rows = Self { run, pages, page, next_page, row: 0 };
        rows.turn()?;
        rows.row = rows.page.position(from);
        rows.turn()?;
        Ok(rows)
    }

    /// The row at which this stands; none at the end.
    pub fn row(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.page.row(self.row)
    }

    /// Goes on to the next row.
    pub fn step(&mut self) -> Result<(), IndexError> {
        self.row += 1;
        self.turn()
    }

    /// Goes on to the next page at the end of one.
    fn turn(&mut self) -> Result<(), IndexError> {
        while self.row >= self.page.rows() && self.next_page < self.run.pages()? {
            self.page = match self.pages {
                Some(pages) => self.run.page(self.next_page, pages)?,
                None => Arc::new(self.run.read_page(self.next_page)?),
            };
            self.next_page += 1;
            self.row = 0;
        }
        Ok(())
    }
}

/// Takes a row, and answers whether more are wanted.
pub type Take<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<bool, IndexError> + 'a;

/// Passes each key of several runs, newest first, with its newest row to `take`, which may end the walk.
pub fn merged(runs: &[Arc<Run>], take: &mut Take<'_>) -> Result<bool, IndexError> {
    let rows = runs.iter().map(|run| Rows::new(run, None, &[]));
    let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
    loop {
        let least = rows.iter().enumerate().filter_map(|(age, rows)| Some((rows.row()?.0, age)));
        let Some((_, age)) = least.min() else { return Ok(true) };
        let key = {
            let Some((key, value)) = rows[age].row() else { return Ok(true) };
            if !take(key, value)? {
                return Ok(false);
            }
            key.to_vec()
        };
        for rows in &mut rows {
            if rows.row().is_some_and(|(found, _)| found == key) {
                rows.step()?;
            }
        }
    }
}
