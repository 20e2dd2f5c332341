'use strict';

// The other language's page opens at the section that is being read.
document.querySelectorAll('a.language').forEach(link => {
    link.addEventListener('click', () => {
        const headings = [...document.querySelectorAll('main :is(h2, h3)[id]')];
        const passed = headings.filter(heading => heading.getBoundingClientRect().top < window.innerHeight / 3).pop();
        link.hash = passed ? passed.id : window.location.hash;
    });
});

// mdBook's index knows English only. On a Vietnamese page it is built anew from the same texts, without marks, so that
// `luong tu hoa`, `lượng tử hóa` and `lượng tử hoá` find the same.
if (document.documentElement.lang === 'vi' && window.elasticlunr) {
    const plain = word => word.normalize('NFD').replace(/[\u0300-\u036f]/g, '').replace(/đ/g, 'd').replace(/[^\p{L}\p{N}]/gu, '');
    elasticlunr.Pipeline.registerFunction(plain, 'plain');
    const load = elasticlunr.Index.load;
    elasticlunr.Index.load = old => {
        const index = elasticlunr(function() {
            old.fields.forEach(field => this.addField(field));
            this.setRef(old.ref);
            // The English stop words are Vietnamese words without their marks.
            this.pipeline.reset();
            this.pipeline.add(plain);
        });
        Object.values(load.call(elasticlunr.Index, old).documentStore.docs).forEach(doc => index.addDoc(doc));
        return index;
    };
    const shown = document.getElementById('mdbook-searchresults-header');
    const say = () => {
        const found = shown.innerText.match(/^(\d+|No) search results? for '(.*)'[:.]$/);
        if (found) {
            shown.innerText = found[1] === 'No' ? `Không tìm thấy “${found[2]}”.` : `${found[1]} kết quả cho “${found[2]}”:`;
        }
    };
    new MutationObserver(say).observe(shown, { childList: true, characterData: true, subtree: true });
}
