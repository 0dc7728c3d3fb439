package main

import (
	"cmp"
	"maps"
	"slices"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bar is a progress bar on standard error, or nothing (nil) when that is not
// a terminal or the size of the work is not known.
type bar struct {
	all *mpb.Progress
	one *mpb.Bar
}

// progress starts a bar for total bytes of work.
func (a *app) progress(what string, total int64) *bar {
	if total <= 0 || a.json() || !terminal(a.err) {
		return nil
	}
	all := mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(72))
	one := all.New(total, mpb.BarStyle().Rbound("|").Lbound("|").Filler("=").Tip(">").Padding(" "),
		mpb.PrependDecorators(decor.Name(what, decor.WC{C: decor.DindentRight | decor.DextraSpace}), decor.CountersKiloByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.AverageSpeed(decor.SizeB1000(0), "% .1f"), decor.Name(" "), decor.AverageETA(decor.ET_STYLE_GO)))
	return &bar{all, one}
}

func (b *bar) advance(n int64) {
	if b != nil {
		b.one.IncrInt64(n)
	}
}

// stop leaves the bar as it is and ends its drawing.
func (b *bar) stop() {
	if b != nil {
		b.one.Abort(false)
		b.all.Wait()
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
