//! What the program itself says in a page, in each language.

use crate::Language;

/// The words of one language.
pub(crate) struct Words {
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) read: &'static str,
    pub(crate) run: &'static str,
    pub(crate) minutes: &'static str,
    pub(crate) under_a_minute: &'static str,
    pub(crate) notebook: &'static str,
    pub(crate) output: &'static str,
    pub(crate) measured: &'static str,
    pub(crate) skip: &'static str,
    /// What mdBook says in English, and what it says here.
    pub(crate) interface: &'static [(&'static str, &'static str)],
}

impl Words {
    pub(crate) fn of(language: Language) -> &'static Self {
        match language {
            Language::English => &ENGLISH,
            Language::Vietnamese => &VIETNAMESE,
        }
    }
}

const ENGLISH: Words = Words {
    title: "Fine-tuning with LoRA and QLoRA, in Rust",
    description: "A course whose every number is measured by a cell that you can run",
    read: "Read",
    run: "Run",
    minutes: "min",
    under_a_minute: "under a minute",
    notebook: "Notebook",
    output: "Output of the cell",
    measured: "Measured on",
    skip: "Skip to the text",
    interface: &[],
};

const VIETNAMESE: Words = Words {
    title: "Tinh chỉnh với LoRA và QLoRA, bằng Rust",
    description: "Khóa học mà mọi con số đều do một ô mã bạn chạy được đo ra",
    read: "Đọc",
    run: "Chạy",
    minutes: "phút",
    under_a_minute: "chưa đến một phút",
    notebook: "Notebook",
    output: "Kết quả của ô mã",
    measured: "Đo trên",
    skip: "Đi thẳng tới nội dung",
    interface: &[
        (">Keyboard shortcuts<", ">Phím tắt<"),
        (
            "<p>Press <kbd>←</kbd> or <kbd>→</kbd> to navigate between chapters</p>",
            "<p><kbd>←</kbd> hoặc <kbd>→</kbd>: sang chương trước hoặc chương sau</p>",
        ),
        (
            "<p>Press <kbd>S</kbd> or <kbd>/</kbd> to search in the book</p>",
            "<p><kbd>S</kbd> hoặc <kbd>/</kbd>: tìm trong sách</p>",
        ),
        ("<p>Press <kbd>?</kbd> to show this help</p>", "<p><kbd>?</kbd>: mở bảng phím tắt này</p>"),
        ("<p>Press <kbd>Esc</kbd> to hide this help</p>", "<p><kbd>Esc</kbd>: đóng bảng này</p>"),
        ("aria-label=\"Table of contents\"", "aria-label=\"Mục lục\""),
        (
            "title=\"Toggle Table of Contents\" aria-label=\"Toggle Table of Contents\"",
            "title=\"Mở hoặc đóng mục lục\" aria-label=\"Mở hoặc đóng mục lục\"",
        ),
        ("title=\"Change theme\" aria-label=\"Change theme\"", "title=\"Đổi giao diện\" aria-label=\"Đổi giao diện\""),
        ("aria-label=\"Themes\"", "aria-label=\"Giao diện\""),
        (">Auto<", ">Tự động<"),
        (">Light<", ">Sáng<"),
        (">Navy<", ">Tối<"),
        (
            "title=\"Search (`/`)\" aria-label=\"Toggle Searchbar\"",
            "title=\"Tìm kiếm (`/`)\" aria-label=\"Mở hoặc đóng ô tìm kiếm\"",
        ),
        ("placeholder=\"Search this book ...\"", "placeholder=\"Tìm trong sách…\""),
        ("aria-label=\"Page navigation\"", "aria-label=\"Chuyển trang\""),
        (
            "title=\"Previous chapter\" aria-label=\"Previous chapter\"",
            "title=\"Chương trước\" aria-label=\"Chương trước\"",
        ),
        ("title=\"Next chapter\" aria-label=\"Next chapter\"", "title=\"Chương sau\" aria-label=\"Chương sau\""),
        ("</svg>Note</p>", "</svg>Ghi chú</p>"),
        ("</svg>Tip</p>", "</svg>Mẹo</p>"),
        ("</svg>Important</p>", "</svg>Quan trọng</p>"),
        ("</svg>Warning</p>", "</svg>Cảnh báo</p>"),
        ("</svg>Caution</p>", "</svg>Thận trọng</p>"),
    ],
};
