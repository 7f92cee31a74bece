package dockerapi

import (
	"net/http"
	"strings"
)

// route is one line of the API's table.
type route struct {
	method  string
	pattern string // {name} matches one segment, {name...} one or more, also in the middle
	since   int    // first minor API version that has it, 0: all that we serve
	title   string // what it does, for messages and documentation
	handler func(*call) error
	reason  string // why there is no handler
}

// Route describes a line of the table to documentation and tests.
type Route struct {
	Method, Pattern, Title string
	Since                  int    // minor API version, 0: all
	Served                 bool   // false: answers 501
	Reason                 string // why it is not served
}

// Routes lists everything that the API knows, served or not.
func Routes() []Route {
	out := make([]Route, len(routes))
	for i, r := range routes {
		out[i] = Route{r.method, r.pattern, r.title, r.since, r.handler != nil, r.reason}
	}
	return out
}

// compiled is a route's pattern split at its variable: a path matches if it
// starts with prefix, ends with suffix, and something of the right kind is left
// in between.
type compiled struct {
	*route
	prefix, suffix string
	variable, many bool
}

// router finds routes by method and first path segment; few remain after that,
// and the first that matches wins.
type router map[string][]compiled

func compile(table []route) router {
	rt := make(router)
	for i := range table {
		c := compiled{route: &table[i], prefix: table[i].pattern}
		if open := strings.IndexByte(c.pattern, '{'); open >= 0 {
			end := strings.IndexByte(c.pattern, '}')
			c.variable = true
			c.many = strings.HasSuffix(c.pattern[:end], "...")
			c.prefix, c.suffix = c.pattern[:open], c.pattern[end+1:]
		}
		k := key(c.method, c.pattern)
		rt[k] = append(rt[k], c)
	}
	return rt
}

// key is the method and the first segment of a path or pattern.
func key(method, path string) string {
	first := strings.TrimPrefix(path, "/")
	if i := strings.IndexByte(first, '/'); i >= 0 {
		first = first[:i]
	}
	return method + " " + first
}

// find returns the route for a path and the value of its variable.
func (rt router) find(method, path string) (*route, string) {
	if rs, ok := rt[key(method, path)]; ok {
		for i := range rs {
			if v, ok := rs[i].match(path); ok {
				return rs[i].route, v
			}
		}
	}
	if method == http.MethodHead { // net/http drops the body
		return rt.find(http.MethodGet, path)
	}
	return nil, ""
}

func (c *compiled) match(path string) (string, bool) {
	if !c.variable {
		return "", path == c.prefix
	}
	if len(path) <= len(c.prefix)+len(c.suffix) || !strings.HasPrefix(path, c.prefix) || !strings.HasSuffix(path, c.suffix) {
		return "", false
	}
	v := path[len(c.prefix) : len(path)-len(c.suffix)]
	if !c.many && strings.IndexByte(v, '/') >= 0 {
		return "", false
	}
	return v, true
}
