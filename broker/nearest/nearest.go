// Package nearest finds the name that somebody meant who misspelled it: of a
// command, a setting or a config.
package nearest

import "strings"

// maxWord is the longest word, in bytes, that can be a misspelled name; what
// is longer is not worth the work.
const maxWord = 100

// Word gives the word of known that is closest to word, "" when none is close
// enough to be what was meant (more than about a third of the letters are
// different). Case and separators do not count. Of words that are as close as
// each other it is the first.
func Word(word string, known []string) string {
	if len(word) > maxWord {
		return ""
	}
	best, bestDist := "", len(word)/3+2
	w := fold(word)
	for _, k := range known {
		if max(len(k)-len(w), len(w)-len(k)) >= bestDist {
			continue
		}
		if d := distance(w, fold(k)); d < bestDist {
			best, bestDist = k, d
		}
	}
	return best
}

// fold makes spellings equal that differ only in case and in separators.
func fold(s string) string {
	return strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(s))
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	prev2 := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
