// Every page in both languages, light and dark, wide and as a phone shows it; search, languages and keyboard.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { chromium } = require('playwright-core');

const [book, shots] = process.argv.slice(2).map(folder => path.resolve(folder));
const address = (language, page) => pathToFileURL(path.join(book, language, page)).href;
const pages = language => fs.readdirSync(path.join(book, language)).filter(name => name.endsWith('.html') && name !== 'toc.html');

// A page, what it asked for elsewhere, and what it complained about.
async function open(browser, url, options = {}) {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    const complaints = [];
    page.on('console', message => message.type() === 'error' && complaints.push(message.text()));
    page.on('pageerror', error => complaints.push(String(error)));
    page.on('request', request => /^(file|data):/.test(request.url()) || complaints.push(`asks for ${request.url()}`));
    page.on('requestfailed', request => complaints.push(`lacks ${request.url()}`));
    await page.goto(url);
    return { page, complaints, close: () => context.close() };
}

// The contrast of text and what is behind it, by WCAG; colours that are not opaque are left out.
const contrasts = () => {
    const rgb = colour => (colour.match(/[\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const low = [];
    for (const element of document.querySelectorAll('main :is(p, li, td, th, h1, h2, h3, code, summary, a)')) {
        const style = getComputedStyle(element);
        if (!element.textContent.trim() || style.visibility === 'hidden' || element.closest('svg')) continue;
        const [a, b] = [light(rgb(style.color)), light(behind(element))].sort((a, b) => b - a);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) low.push(`${element.tagName} ${ratio.toFixed(2)}: ${element.textContent.trim().slice(0, 40)}`);
    }
    return low;
};

async function looks(browser) {
    for (const language of ['en', 'vi']) {
        for (const name of pages(language)) {
            for (const scheme of ['light', 'dark']) {
                for (const width of [1280, 390]) {
                    const options = { viewport: { width, height: 900 }, colorScheme: scheme };
                    const { page, complaints, close } = await open(browser, address(language, name), options);
                    const where = `${language}/${name}, ${scheme}, ${width} pixels wide`;
                    assert.deepStrictEqual(complaints, [], where);
                    assert.strictEqual(await page.getAttribute('html', 'lang'), language, where);
                    const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
                    assert.ok(wider <= 0, `${where}: ${wider} pixels wider than the window`);
                    const unnamed = await page.evaluate(() => [...document.querySelectorAll('main svg:not(p svg), main img')]
                        .filter(picture => !(picture.getAttribute('aria-label') || picture.getAttribute('alt'))).length);
                    assert.strictEqual(unnamed, 0, `${where}: pictures without words`);
                    const errors = await page.evaluate(() => document.querySelectorAll('merror').length);
                    assert.strictEqual(errors, 0, `${where}: formulas with errors`);
                    assert.deepStrictEqual(await page.evaluate(contrasts), [], where);
                    const shot = `${language}-${name.replace('.html', '')}-${scheme}-${width}.png`;
                    await page.screenshot({ path: path.join(shots, shot), fullPage: true });
                    await close();
                }
            }
        }
    }
}

async function finds(browser) {
    const results = async (language, words) => {
        const { page, complaints, close } = await open(browser, address(language, 'index.html'));
        await page.keyboard.press('/');
        await page.waitForSelector('#mdbook-searchbar:focus');
        // Letters that no key has come without the events of keys, which the search waits for.
        await page.keyboard.type(words);
        await page.keyboard.press('End');
        await page.waitForSelector('#mdbook-searchresults li');
        const found = await page.$$eval('#mdbook-searchresults li a', links => links.map(link => link.getAttribute('href').replace(/\?[^#]*/, '')));
        assert.deepStrictEqual(complaints, []);
        await close();
        return found;
    };
    const spellings = ['lượng tử hóa', 'lượng tử hoá', 'luong tu hoa', 'LƯỢNG TỬ HÓA'];
    const [first, ...others] = await Promise.all(spellings.map(words => results('vi', words)));
    assert.ok(first.some(link => link.includes('nf4.html')), first.join(' '));
    others.forEach((other, i) => assert.deepStrictEqual(other, first, spellings[i + 1]));
    assert.ok((await results('en', 'quantile')).some(link => link.includes('nf4.html')));
}

async function crosses(browser) {
    const { page, close } = await open(browser, address('en', 'nf4.html'));
    await page.evaluate(() => document.getElementById('bits').scrollIntoView());
    await page.click('a.language');
    await page.waitForURL(/vi\/nf4\.html#bits$/);
    await page.click('a.language');
    await page.waitForURL(/en\/nf4\.html#bits$/);
    // The first link of a page leads past the menus.
    await page.focus('a');
    assert.strictEqual(await page.evaluate(() => document.activeElement.className), 'skip');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.activeElement.id === 'mdbook-content');
    await close();
    const entrance = await open(browser, pathToFileURL(path.join(book, 'index.html')).href);
    await entrance.page.click('a[hreflang=vi]');
    await entrance.page.waitForURL(/vi\/index\.html$/);
    assert.deepStrictEqual(entrance.complaints, []);
    await entrance.close();
}

(async () => {
    fs.mkdirSync(shots, { recursive: true });
    const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
    try {
        await looks(browser);
        await finds(browser);
        await crosses(browser);
        console.log(`the book opens in both languages; ${fs.readdirSync(shots).length} screenshots are in ${shots}`);
    } finally {
        await browser.close();
    }
})().catch(error => {
    console.error(error.message || error);
    process.exit(1);
});
