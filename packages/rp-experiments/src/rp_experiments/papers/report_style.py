"""The frame and the look of the report's page; without network, on a wide screen and on a phone."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Both papers, measured</title>
<style>
:root {{ --line: #d8dde3; --quiet: #59626c; --held: #0b6b4f; --failed: #a8321a; --open: #5b5f66; }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: #16191d; background: #fff; margin: 0 auto; padding: 0 1rem 4rem;
  max-width: 96rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.7rem; margin: 2rem 0 .5rem; }}
h2 {{ font-size: 1.35rem; margin: 3rem 0 1rem; border-bottom: 2px solid #16191d; }}
h3 {{ font-size: 1.1rem; margin: 0 0 .75rem; }}
h4 {{ font-size: .85rem; margin: .75rem 0 .25rem; text-transform: uppercase; letter-spacing: .06em;
  color: var(--quiet); }}
nav {{ position: sticky; top: 0; background: #fff; border-bottom: 1px solid var(--line); padding: .5rem 0;
  z-index: 1; }}
nav a {{ margin-right: 1.25rem; }}
a {{ color: #0b5394; }}
section {{ border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0; scroll-margin-top: 3rem; }}
.sides {{ display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); }}
.half {{ min-width: 0; }}
.wide {{ overflow-x: auto; margin: .25rem 0 1rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }}
.setting {{ color: var(--quiet); font-size: .8rem; margin: .25rem 0 0; }}
.caption {{ color: var(--quiet); font-size: .9rem; margin: .75rem 0 0; }}
th, td {{ padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }}
th {{ border-bottom: 2px solid #9aa3ad; }}
th:first-child, td:first-child, .text {{ text-align: left; }}
td.text {{ min-width: 11rem; }}
@media (max-width: 40rem) {{
  th, td {{ padding: .25rem .4rem; }}
  section {{ padding: .75rem; }}
  .verdicts table, .verdicts thead, .verdicts tbody {{ display: block; }}
  .verdicts tr {{ display: flex; flex-wrap: wrap; border-bottom: 1px solid var(--line); }}
  .verdicts th, .verdicts td {{ border: 0; padding: .15rem .2rem; flex: 0 0 6.6rem; }}
  .verdicts th:first-child, .verdicts td:first-child {{ flex: 1 1 4rem; }}
  .verdicts .text {{ flex: 1 0 100%; }}
}}
figure {{ margin: .75rem 0; }}
img {{ max-width: min(100%, 44rem); max-height: 34rem; width: auto; height: auto; }}
figcaption, small, details {{ color: var(--quiet); font-size: .88rem; }}
small {{ display: block; }}
.claims {{ list-style: none; padding: 0; }}
.claims li {{ margin: .4rem 0; }}
.held, .failed, .open {{ display: inline-block; white-space: nowrap; border: 1px solid currentcolor; border-radius: 4px;
  padding: 0 .4rem; font-size: .82rem; font-weight: 600; }}
.held {{ color: var(--held); background: #e9f6f1; }}
.failed {{ color: var(--failed); background: #fdf0ec; }}
.open {{ color: var(--open); background: #f3f4f6; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }}
.tile {{ border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1rem; display: flex; flex-wrap: wrap;
  gap: .5rem; }}
.tile b {{ width: 100%; }}
.contradictions {{ background: #fff8e6; border-left: 4px solid #c98a00; padding: .5rem 1rem; }}
.contradictions ul {{ margin: .25rem 0; padding-left: 1.2rem; }}
</style>
</head>
<body>
<h1>Both papers, measured</h1>
<p>Every table, figure and theorem of two papers, repeated with the code of this project. Each number comes from a run
folder that its item names. Robust accuracies are those of the worst attack on each image, with 95% intervals; the
papers' numbers stand beside them and belong to other data sets and networks, as each item says.</p>
<p>A claim about a difference <span class="held">held</span> if its whole interval is on the claim's side, it
<span class="failed">did not hold</span> if it is on the other side, and it is
<span class="open">not testable at this scale</span> if the interval contains zero: too few images to
tell. Where both systems saw the same images, a permutation test must be below 5% too. A number that was measured once
and has no interval decides a claim only if it is far from the other side, and its evidence says so. Claims about other
numbers name their rule. With many claims, one in twenty of those without any truth in them would seem to hold or to
fail.</p>
<nav><a href="#summary">Summary</a>{links}</nav>
<h2 id="summary">Summary</h2>
{summary}
{body}
</body>
</html>
"""
