package cache

import "container/list"

// policy decides which chunk goes when bytes run out: S3-FIFO (Yang and
// others, SOSP 2023). New chunks enter a small queue of about a tenth of the
// bytes; what is asked for again there, or was evicted from there not long
// ago (the ghosts), goes to the main queue. One pass over much data flows
// through the small queue and leaves the main one alone. It counts bytes and
// knows nothing of files. Not safe for concurrent use.
type policy struct {
	max, used, smallUsed int64
	small, main          *list.List // of *entry, newest in front
	ghosts               *list.List // of id, newest in front
	ghost                map[id]*list.Element
	maxGhosts            int
}

// place is where an entry is in the policy's queues.
type place struct {
	elem   *list.Element
	inMain bool
	freq   int8 // 0–3: asked for since it came or was last spared
}

func newPolicy(max int64, chunk int) *policy {
	return &policy{
		max: max, small: list.New(), main: list.New(), ghosts: list.New(),
		ghost:     map[id]*list.Element{},
		maxGhosts: int(max/int64(chunk)) + 16,
	}
}

// touch notes that e was asked for.
func (p *policy) touch(e *entry) { e.freq = min(e.freq+1, 3) }

// add enters e, after making room with evict.
func (p *policy) add(e *entry, proven bool) {
	if g, ok := p.ghost[e.id]; ok {
		p.ghosts.Remove(g)
		delete(p.ghost, e.id)
		proven = true
	}
	e.freq, e.inMain = 0, proven
	p.used += e.size
	if proven {
		e.elem = p.main.PushFront(e)
		return
	}
	p.smallUsed += e.size
	e.elem = p.small.PushFront(e)
}

// remove takes e out, whatever its merits.
func (p *policy) remove(e *entry) {
	if e.elem == nil {
		return
	}
	p.used -= e.size
	if e.inMain {
		p.main.Remove(e.elem)
	} else {
		p.smallUsed -= e.size
		p.small.Remove(e.elem)
	}
	e.elem = nil
}

// evict takes out entries until n more bytes fit, and returns them.
func (p *policy) evict(n int64) (victims []*entry) {
	for p.used+n > p.max && p.used > 0 {
		fromSmall := p.small.Len() > 0 && (p.smallUsed+n > p.max/10 || p.main.Len() == 0)
		if fromSmall {
			if e := p.evictSmall(); e != nil {
				victims = append(victims, e)
			}
			continue
		}
		if e := p.evictMain(); e != nil {
			victims = append(victims, e)
		}
	}
	return victims
}

func (p *policy) evictSmall() *entry {
	e := p.small.Back().Value.(*entry)
	p.remove(e)
	if e.freq > 1 {
		p.add(e, true)
		return nil
	}
	p.ghost[e.id] = p.ghosts.PushFront(e.id)
	for p.ghosts.Len() > p.maxGhosts {
		last := p.ghosts.Back()
		delete(p.ghost, last.Value.(id))
		p.ghosts.Remove(last)
	}
	return e
}

func (p *policy) evictMain() *entry {
	e := p.main.Back().Value.(*entry)
	if e.freq > 0 {
		e.freq--
		p.main.MoveToFront(e.elem)
		return nil
	}
	p.remove(e)
	return e
}
