"""Small classes. A case runs statements with the class as ``C`` and compares the value of an expression."""

# ruff: noqa: E501
from ..family import klass

FAMILIES = [
    klass(
        "stack", names="Stack SimpleStack ListStack MyStack LifoStack",
        wordings="""
        [class] stack with push, pop, peek and is_empty
        [class] last-in first-out stack [of items|]
        [class] stack [built|based] on a list
        [class] stack: the last item pushed is the first one popped
        a LIFO stack
        """,
        held_out="""
        a stack of values that can be pushed and popped
        [class] pile of items with push and pop at the top
        """,
        body="""
        def __init__(self):
            self.items = []

        def push(self, item):
            self.items.append(item)

        def pop(self):
            return self.items.pop()

        def peek(self):
            return self.items[-1]

        def is_empty(self):
            return len(self.items) == 0
        """,
        cases=[("s = C()", "s.is_empty()", True), ("s = C(); s.push(1); s.push(2)", "[s.peek(), s.pop(), s.pop(), s.is_empty()]", [2, 2, 1, True])],
    ),
    klass(
        "queue", names="Queue SimpleQueue ListQueue MyQueue FifoQueue",
        wordings="""
        [class] queue with enqueue, dequeue and is_empty
        [class] first-in first-out queue [of items|]
        [class] queue [built|based] on a list
        [class] queue: the first item enqueued is the first one dequeued
        a FIFO queue
        """,
        held_out="""
        a queue of values that are enqueued at one end and dequeued at the other
        [class] waiting line with enqueue and dequeue
        """,
        body="""
        def __init__(self):
            self.items = []

        def enqueue(self, item):
            self.items.append(item)

        def dequeue(self):
            return self.items.pop(0)

        def is_empty(self):
            return len(self.items) == 0
        """,
        cases=[("q = C()", "q.is_empty()", True), ("q = C(); q.enqueue(1); q.enqueue(2)", "[q.dequeue(), q.is_empty(), q.dequeue(), q.is_empty()]", [1, False, 2, True])],
    ),
    klass(
        "counter", names="Counter SimpleCounter ClickCounter MyCounter TallyCounter",
        wordings="""
        [class] counter with increment, decrement and reset
        [class] counter that starts at [zero|0]
        [class] counter that can go up and down
        [class] counter with a value that can be incremented and decremented
        """,
        held_out="""
        counts up with increment, down with decrement
        [class] tally whose value goes up or down by one
        """,
        body="""
        def __init__(self):
            self.value = 0

        def increment(self):
            self.value += 1

        def decrement(self):
            self.value -= 1

        def reset(self):
            self.value = 0
        """,
        cases=[("c = C()", "c.value", 0), ("c = C(); c.increment(); c.increment(); c.decrement()", "c.value", 1), ("c = C(); c.increment(); c.reset()", "c.value", 0)],
    ),
    klass(
        "point", names="Point Point2D PlanePoint Coordinate XYPoint",
        wordings="""
        [class] point in the plane
        [class] point with [the|] coordinates x and y
        [class] two-dimensional point [with a distance|]
        [class] point with x, y and the distance to another point
        """,
        held_out="""
        a point of the plane, given by x and y
        [class] position with two coordinates
        """,
        body="""
        def __init__(self, x, y):
            self.x = x
            self.y = y

        def distance(self, other):
            return ((self.x - other.x) ** 2 + (self.y - other.y) ** 2) ** 0.5
        """,
        cases=[("p = C(1, 2)", "(p.x, p.y)", (1, 2)), ("p = C(0, 0); q = C(3, 4)", "p.distance(q)", 5.0)],
    ),
    klass(
        "account", names="BankAccount Account SimpleAccount SavingsAccount MyAccount",
        wordings="""
        [class] bank account with deposit and withdraw
        [class] bank account with a balance
        [class] account to which money is deposited and from which it is withdrawn
        [class] bank account that does not allow withdrawing more than the balance
        """,
        held_out="""
        an account at a bank with a balance, deposits and withdrawals
        keeps the balance of a bank account
        """,
        body="""
        def __init__(self, balance=0):
            self.balance = balance

        def deposit(self, amount):
            self.balance += amount

        def withdraw(self, amount):
            if amount > self.balance:
                raise ValueError("not enough money")
            self.balance -= amount
        """,
        cases=[("a = C()", "a.balance", 0), ("a = C(100); a.deposit(50); a.withdraw(30)", "a.balance", 120),
               ("a = C(10)\ntry:\n    a.withdraw(20)\n    failed = False\nexcept ValueError:\n    failed = True", "(failed, a.balance)", (True, 10))],
    ),
    klass(
        "rectangle", names="Rectangle Rect SimpleRectangle Box MyRectangle",
        wordings="""
        [class] rectangle with area and perimeter
        [class] rectangle with [a|] width and height
        [class] rectangle [given|described] by width and height
        [class] rectangle that knows its area and perimeter
        """,
        held_out="""
        a rectangle of a given width and height
        computes the area and the perimeter of a rectangle
        """,
        body="""
        def __init__(self, width, height):
            self.width = width
            self.height = height

        def area(self):
            return self.width * self.height

        def perimeter(self):
            return 2 * (self.width + self.height)
        """,
        cases=[("r = C(3, 4)", "(r.width, r.height, r.area(), r.perimeter())", (3, 4, 12, 14)), ("r = C(1, 1)", "(r.area(), r.perimeter())", (1, 4))],
    ),
    klass(
        "circle", names="Circle SimpleCircle Disk MyCircle RoundShape",
        wordings="""
        [class] circle with area and circumference
        [class] circle with [a|] radius
        [class] circle [given|described] by its radius
        [class] circle that knows its area and circumference
        """,
        held_out="""
        a circle of a given radius
        computes the area and the circumference of a circle
        """,
        body="""
        def __init__(self, radius):
            self.radius = radius

        def area(self):
            return 3.141592653589793 * self.radius ** 2

        def circumference(self):
            return 2 * 3.141592653589793 * self.radius
        """,
        cases=[("c = C(1)", "(c.radius, c.area(), c.circumference())", (1, 3.141592653589793, 6.283185307179586)), ("c = C(2)", "c.area()", 12.566370614359172)],
    ),
    klass(
        "person", names="Person Human Contact Member Friend",
        wordings="""
        [class] person with a name and an age
        [class] person who can be greeted and has birthdays
        [class] person with name, age, greet and birthday
        [class] person that says hello and gets older
        """,
        held_out="""
        someone with a name and an age
        [class] human being who greets and has birthdays
        """,
        body="""
        def __init__(self, name, age):
            self.name = name
            self.age = age

        def greet(self):
            return f"Hello, my name is {self.name}"

        def birthday(self):
            self.age += 1
        """,
        cases=[("p = C('Ann', 30)", "(p.name, p.age, p.greet())", ("Ann", 30, "Hello, my name is Ann")), ("p = C('Bo', 5); p.birthday()", "p.age", 6)],
    ),
    klass(
        "student", names="Student Pupil Learner SchoolStudent Classmate",
        wordings="""
        [class] student with a name and grades
        [class] student with a list of grades and their average
        [class] student who gets grades
        [class] student with add_grade and average
        """,
        held_out="""
        a student whose grades can be averaged
        keeps the grades of a student
        """,
        body="""
        def __init__(self, name):
            self.name = name
            self.grades = []

        def add_grade(self, grade):
            self.grades.append(grade)

        def average(self):
            return sum(self.grades) / len(self.grades)
        """,
        cases=[("s = C('Ann')", "(s.name, s.grades)", ("Ann", [])), ("s = C('Bo'); s.add_grade(80); s.add_grade(90)", "s.average()", 85.0)],
    ),
    klass(
        "temperature", names="Temperature Thermometer TemperatureReading Degrees HeatReading",
        wordings="""
        [class] temperature in degrees Celsius [that converts to Fahrenheit|]
        [class] temperature with conversion to Fahrenheit and Kelvin
        [class] temperature that can be converted to Fahrenheit and Kelvin
        [class] temperature with to_fahrenheit and to_kelvin
        """,
        held_out="""
        a Celsius temperature, also as Fahrenheit or Kelvin
        converts a temperature between units
        """,
        body="""
        def __init__(self, celsius):
            self.celsius = celsius

        def to_fahrenheit(self):
            return self.celsius * 9 / 5 + 32

        def to_kelvin(self):
            return self.celsius + 273.15
        """,
        cases=[("t = C(100)", "(t.celsius, t.to_fahrenheit(), t.to_kelvin())", (100, 212.0, 373.15)), ("t = C(-40)", "t.to_fahrenheit()", -40.0)],
    ),
    klass(
        "vector", names="Vector Vector2D PlaneVector Vec Vec2",
        wordings="""
        [class] vector in the plane with addition and [dot product|length]
        [class] two-dimensional vector [that can be added and scaled|]
        [class] vector with x and y
        [class] vector with add, dot and length
        """,
        held_out="""
        a vector of the plane, given by x and y
        [class] plane vector with the usual operations
        """,
        body="""
        def __init__(self, x, y):
            self.x = x
            self.y = y

        def add(self, other):
            return $f(self.x + other.x, self.y + other.y)

        def dot(self, other):
            return self.x * other.x + self.y * other.y

        def length(self):
            return (self.x ** 2 + self.y ** 2) ** 0.5
        """,
        cases=[("v = C(3, 4); w = C(1, 2)", "(v.length(), v.dot(w))", (5.0, 11)), ("s = C(3, 4).add(C(1, 2))", "(s.x, s.y)", (4, 6))],
    ),
    klass(
        "cart", names="ShoppingCart Cart Basket ShoppingBasket Trolley",
        wordings="""
        [class] shopping cart with items and prices
        [class] shopping cart with a total price
        [class] shopping cart to which items with prices are added
        [class] shopping cart with add, remove and total
        """,
        held_out="""
        what a customer wants to buy, with the total price
        keeps the prices of the items in a shopping cart
        """,
        body="""
        def __init__(self):
            self.items = {}

        def add(self, name, price):
            self.items[name] = price

        def remove(self, name):
            del self.items[name]

        def total(self):
            return sum(self.items.values())
        """,
        cases=[("c = C()", "c.total()", 0), ("c = C(); c.add('a', 3); c.add('b', 4)", "c.total()", 7), ("c = C(); c.add('a', 3); c.add('b', 4); c.remove('a')", "c.total()", 4)],
    ),
    klass(
        "todo", names="TodoList TaskList Todo ToDoList Checklist",
        wordings="""
        [class] list of tasks to do
        [class] to-do list with add, complete and pending
        [class] to-do list of tasks that are done or pending
        [class] list of tasks which can be completed
        """,
        held_out="""
        keeps track of tasks and which of them are done
        [class] to-do list that knows what is still pending
        """,
        body="""
        def __init__(self):
            self.tasks = {}

        def add(self, task):
            self.tasks[task] = False

        def complete(self, task):
            self.tasks[task] = True

        def pending(self):
            return [task for task, done in self.tasks.items() if not done]
        """,
        cases=[("t = C()", "t.pending()", []), ("t = C(); t.add('a'); t.add('b'); t.complete('a')", "t.pending()", ["b"])],
    ),
    klass(
        "linked_list", names="LinkedList SinglyLinkedList SimpleLinkedList NodeList MyLinkedList",
        wordings="""
        [class] linked list with prepend and to_list
        [class] singly linked list
        [class] linked list of nodes
        [class] linked list that grows at the front
        """,
        held_out="""
        nodes that are linked one to the next
        [class] singly linked list with values added at the head
        """,
        body="""
        def __init__(self):
            self.head = None

        def prepend(self, value):
            self.head = (value, self.head)

        def to_list(self):
            result = []
            node = self.head
            while node is not None:
                result.append(node[0])
                node = node[1]
            return result
        """,
        cases=[("n = C()", "n.to_list()", []), ("n = C(); n.prepend(1); n.prepend(2)", "n.to_list()", [2, 1])],
    ),
    klass(
        "light", names="Light Lamp LightSwitch Switch Bulb",
        wordings="""
        [class] light that can be switched on and off
        [class] lamp with turn_on, turn_off and toggle
        [class] switch that is on or off
        [class] light [switch|] which can be toggled
        """,
        held_out="""
        something that is either on or off
        [class] lamp that is turned on, turned off or toggled
        """,
        body="""
        def __init__(self):
            self.on = False

        def turn_on(self):
            self.on = True

        def turn_off(self):
            self.on = False

        def toggle(self):
            self.on = not self.on
        """,
        cases=[("s = C()", "s.on", False), ("s = C(); s.turn_on()", "s.on", True), ("s = C(); s.turn_on(); s.turn_off()", "s.on", False), ("s = C(); s.toggle()", "s.on", True)],
    ),
    klass(
        "average_tracker", names="RunningAverage AverageTracker MeanTracker OnlineMean Averager",
        wordings="""
        [class] running average of numbers
        [class] average of all values added so far
        [class] tracker of the mean of the values [it was given|seen so far]
        [class] mean that is updated with [each|every] new value
        """,
        held_out="""
        keeps the average of a stream of numbers
        [class] mean over everything that was added until now
        """,
        body="""
        def __init__(self):
            self.total = 0
            self.count = 0

        def add(self, value):
            self.total += value
            self.count += 1

        def mean(self):
            return self.total / self.count
        """,
        cases=[("a = C(); a.add(4)", "a.mean()", 4.0), ("a = C(); a.add(1); a.add(2); a.add(6)", "a.mean()", 3.0)],
    ),
    klass(
        "animal", names="Dog Puppy Hound Pet GoodDog",
        wordings="""
        [class] dog that can bark
        [class] dog with a name and tricks
        [class] dog which learns tricks
        [class] dog with bark and add_trick
        """,
        held_out="""
        a dog that barks and knows tricks
        [class] four-legged friend with a name and a list of tricks
        """,
        body="""
        def __init__(self, name):
            self.name = name
            self.tricks = []

        def bark(self):
            return "Woof!"

        def add_trick(self, trick):
            self.tricks.append(trick)
        """,
        cases=[("d = C('Rex')", "(d.name, d.bark(), d.tricks)", ("Rex", "Woof!", [])), ("d = C('Rex'); d.add_trick('roll')", "d.tricks", ["roll"])],
    ),
]  # fmt: skip
